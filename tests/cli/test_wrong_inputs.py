"""A table of wrong inputs: each is one line that says what the table demands, exit code 2, and nothing is written.

`wrong_inputs.txt` has groups, `[command ...]`, and below each a line per case: `WORDS => FRAGMENT | FRAGMENT`. The
files that cases name are made here. Hypothesis adds words and files that nobody thought of. All run in one process.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expunge.cli.main import main
from expunge.cli.schema import flat, tree_of
from expunge.engine.store import Store

TABLE = Path(__file__).with_name("wrong_inputs.txt")
LEAST = 700
CODES = (0, 1, 2, 130)
ROWS = "question,answer\n" + "".join(f"Who is no {i}?,It is Ann {i} of town.\n" for i in range(8))
BOMB = "".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}' if i else 'x'] * 9)}]\n" for i in range(7))
FILES: dict[str, str | bytes | None] = {  # None: a folder
    "rows.csv": ROWS,
    "empty.csv": "",
    "nul.csv": "question,answer\na\0b,c\n",
    "bin.csv": bytes(range(256)),
    "onecol.csv": "x\n1\n2\n",
    "utf16.csv": "question,answer\na,b\n".encode("utf-16"),
    "latin.csv": "question,answer\né,ü\n".encode("latin-1"),
    "dup.csv": "question,answer\na,b\na,b\n",
    "header.csv": "question,answer\n",
    "emptyanswer.csv": "question,answer\na,\n",
    "bad.json": '{"a":',
    "nest.json": "[" * 100_000,
    "number.json": "7",
    "list.json": "[1, 2]",
    "text.jsonl": '"x"\n',
    "bad.parquet": b"PAR1xxxxPAR1",
    "blank.txt": "  \n \n",
    "empty.yaml": "",
    "cycle.yaml": "a: &a [*a]",
    "deep.yaml": "a: " + "[" * 5000,
    "bomb.yaml": BOMB,
    "list.yaml": "[1]",
    "number.yaml": "7",
    "tag.yaml": "a: !!python/name:os.system x",
    "twice.yaml": "train: {}\ntrain: {}\n",
    "deep_twice.yaml": "methods:\n- method_args:\n    beta: 1\n    beta: 2\n  trainer: NPO\n",
    "env.yaml": "methods: [{trainer: NPO, label: '${oc.env:HOME}'}]",
    "esc.yaml": 'methods: [{trainer: NPO, label: "a\\x1b[31mb"}]',
    "nul.yaml": 'paths: {store: "a\\0b"}',
    "key.yaml": "1: 2",
    "self.yaml": "name: ${name}",
    "up.yaml": "methods: [{trainer: NPO, label: ../../x}]",
    "long.yaml": f"methods: [{{trainer: NPO, label: {'x' * 300}}}]",
    "include.yaml": "defaults: [../../x]",
    "includelist.yaml": "defaults: [[1]]",
    "methods.yaml": "methods: [[1]]",
    "methodnumber.yaml": "methods: [1]",
    "rate.yaml": "methods: [{trainer: NPO, args: {learning_rate: -1}}]",
    "grid.yaml": "grid: {nope: [1]}",
    "gridlist.yaml": "grid: [1]",
    "gridsize.yaml": f"grid: {{train.learning_rate: {[k * 1e-5 for k in range(1, 200)]}, "
    f"unlearn.learning_rate: {[k * 1e-5 for k in range(1, 200)]}}}",
    "partition.yaml": 'launch: {kind: slurm, slurm: {partition: "gpu\\ntouch X"}}',
    "variable.yaml": 'launch: {kind: slurm, slurm: {env: {"A B": 1}}}',
    "value.yaml": 'launch: {slurm: {env: {A: "x\\ny"}}}',
    "option.yaml": 'launch: {slurm: {extra: {"x\\ny": 1}}}',
    "request.yaml": "requests: {../x: [0, 2]}",
    "template.yaml": "model: {template_args: 1}",
    "notes.txt": "a file",
    "folder.yaml": None,
    "folder.csv": None,
    "merge.yaml": "a: &a\n  <<: *a\n",
    "two.yaml": "name: x\n---\nname: y\n",
    "octal.yaml": "seeds: {train: [0o17]}",
    "binary.yaml": "name: !!binary aGVsbG8=",
    "set.yaml": "methods: !!set {NPO, GradDiff}",
    "label.yaml": "methods: [{trainer: NPO, label: '${methods[0].label}'}]",
    "create.yaml": "name: '${oc.create:1}'",
    "nested.yaml": "name: '${${name}}'",
    "mark.yaml": "\ufeffname: x\nnope: 1\n",
    "tab.yaml": "train:\n\tnum_train_epochs: 1\n",
    "reverse.yaml": 'methods: [{trainer: NPO, label: "a\\u202eb"}]',
    "invisible.yaml": 'methods: [{trainer: NPO, label: "a\\u200bb"}]',
    "dot.yaml": "methods: [{trainer: NPO, label: .}]",
    "slash.yaml": "methods: [{trainer: NPO, label: /}]",
    "null.yaml": "methods: null",
    "same.yaml": "methods: [{trainer: NPO, label: a}, {trainer: GradDiff, label: a}]",
    "retain.yaml": "methods: [{trainer: NPO, label: retain}]",
    "full.yaml": "methods: [GradDiff, {trainer: NPO, label: full}]",
    "yes.yaml": "train: {num_train_epochs: yes}",
    "own.yaml": "defaults: [own]\nname: x\n",
    "half.jsonl": '{"question": "\\ud800", "answer": "b"}\n',
    "nan.jsonl": '{"question": NaN, "answer": "b"}\n',
    "object.jsonl": '{"question": {"a": 1}, "answer": "b"}\n',
    "twokeys.jsonl": '{"question": "a", "question": "b", "answer": "c"}\n',
    "quote.csv": 'question,answer\n"a,b\n',
    "more.csv": "question,answer\na,b,c\n",
    "columns.csv": "question,question,answer\na,b,c\n",
    "zip.parquet": b"PK\x03\x04",
    "gzip.csv": b"\x1f\x8b\x08\x00abc",
}
Result = tuple[int | str, str, str]


def cases() -> list[tuple[list[str], list[str]]]:
    """Return the cases: the words of the command, and the fragments of its line."""
    out = []
    command: list[str] = []
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            command = shlex.split(line[1:-1])
        elif line and not line.startswith("#"):
            words, _, fragments = line.partition(" => ")
            out.append(([*command, *shlex.split(words)], fragments.split(" | ")))
    return out


CASES = cases()
STEP = 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with the files. No job runs in it."""

    def make(_store: Store, job: Any, _progress: Any) -> None:
        raise AssertionError(f"{job.name} began")

    place, before = tmp_path_factory.mktemp("wrong"), Path.cwd()
    for name, content in FILES.items():
        if content is None:
            (place / name).mkdir()
        else:
            (place / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "make", make)
        patch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("temporary")))
        os.chdir(place)
        yield place
        os.chdir(before)


def call(words: list[str]) -> Result:
    """Run a command in this process: its exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code: int | str = main(words)
        except SystemExit as end:
            code = int(end.code or 0)
        except Exception as error:
            code = f"{type(error).__name__}: {error}"
    return code, out.getvalue(), err.getvalue()


def fault(result: Result, fragments: list[str]) -> str | None:
    """Return why a result breaks the promises of a user error, or None."""
    code, out, err = result
    lines = [x for x in err.splitlines() if x.strip() and not x.startswith(("note: ", "usage: ", " "))]
    if code != 2:
        return f"exit code {code}: {err[-300:]}"
    if "Traceback" in out + err or "internal error" in err or "\x1b" in out + err:
        return f"traceback, internal error or control character: {err[-300:]}"
    if len(lines) != 1:
        return f"{len(lines)} lines: {err[-400:]}"
    absent = [fragment for fragment in fragments if fragment not in lines[0]]
    return f"{absent} not in {lines[0]!r}" if absent else None


@pytest.mark.parametrize("first", range(0, len(CASES), STEP))
def test_each_case_is_one_line(first: int, folder: Path) -> None:
    faults = {}
    for words, fragments in CASES[first : first + STEP]:
        reason = fault(call(words), fragments)
        if reason is not None:
            faults[shlex.join(words)] = reason
    assert not faults, "\n".join(f"{words}\n    {reason}" for words, reason in faults.items())
    assert {path.name for path in folder.iterdir()} == set(FILES)


def test_the_table_is_large_and_each_case_stands_once() -> None:
    words = [shlex.join(words) for words, _ in CASES]
    assert len(words) >= LEAST and len(set(words)) == len(words)
    assert all(fragment for _, fragments in CASES for fragment in fragments)


def check_any(result: Result) -> None:
    """The promises of every command line, right or wrong."""
    code, out, err = result
    assert code in CODES, (code, err)
    assert "Traceback" not in out + err and "internal error" not in err, err
    assert "\x1b" not in out + err


TEXT = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=20)
VALUES = TEXT | st.sampled_from(["", "null", "-1", "1e400", "[", "${x}", "${oc.env:HOME}", "a,b", "true", "{a: 1}"])
KEYS = st.sampled_from(sorted(flat(tree_of("run")))) | TEXT
ANY = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@ANY
@given(key=KEYS, value=VALUES)
def test_any_word(folder: Path, key: str, value: str) -> None:
    check_any(call(["config", "run", "study=quickstart", f"{key}={value}"]))


@ANY
@given(content=st.binary(max_size=60) | st.text("abknu:-[]{}&*!'\"$ \n<1", max_size=40).map(str.encode))
def test_any_study_file(folder: Path, content: bytes) -> None:
    (folder / "empty.yaml").write_bytes(content)
    check_any(call(["config", "run", "study=empty.yaml"]))
    (folder / "empty.yaml").write_bytes(b"")


@ANY
@given(content=st.binary(max_size=60) | st.text("ab,;\t\"'\n\r0é", max_size=60).map(str.encode))
def test_any_table(folder: Path, content: bytes) -> None:
    from expunge.core.errors import ExpungeError
    from expunge.data.custom import Columns, load_rows

    (folder / "empty.csv").write_bytes(b"question,answer\n" + content)
    try:
        load_rows(str(folder / "empty.csv"), "forget", Columns())
    except ExpungeError as error:
        assert len(str(error).splitlines()) == 1
    (folder / "empty.csv").write_bytes(b"")
