"""Jobs written to a file and read again: the same keys, errors that name the file, and a task in another process."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_jobs import CallJob, TextJob

from expunge.core.errors import ConfigError
from expunge.engine.job import Job, in_order, keyed, shared, unkeyed
from expunge.engine.job_file import JobFile, plain
from expunge.engine.store import Store
from expunge.engine.worker import run_task


@dataclass(frozen=True)
class Contents:
    """A file: its contents count, its path does not."""

    path: str
    mark: str

    @property
    def identity(self) -> str:
        return self.mark


@dataclass(frozen=True)
class Part:
    """A nested value with a field that does not count."""

    name: str = unkeyed()
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class ManyFields(Job):
    """A job with a field of each sort."""

    kind: ClassVar[str] = "many"

    text: str
    number: float
    choice: Literal["a", "b"]
    parts: tuple[Part, ...]
    files: Mapping[str, Contents]
    free: Mapping[str, Any]
    maybe: int | None = None
    device: str = unkeyed(default="cpu")
    everywhere: Mapping[str, int] = shared(default_factory=dict)


numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
jobs = st.builds(
    ManyFields,
    label=st.text(max_size=5),
    text=st.text(max_size=8),
    number=numbers,
    choice=st.sampled_from(["a", "b"]),
    parts=st.lists(
        st.builds(Part, name=st.text(max_size=3), sizes=st.lists(st.integers(0, 9), max_size=3).map(tuple)), max_size=3
    ).map(tuple),
    files=st.dictionaries(st.text(max_size=4), st.builds(Contents, path=st.text(max_size=3), mark=st.text(max_size=3))),
    free=st.dictionaries(st.text(max_size=4), values, max_size=3),
    maybe=st.none() | st.integers(0, 5),
    device=st.sampled_from(["cpu", "cuda"]),
    everywhere=st.dictionaries(st.text(max_size=3), st.integers(0, 5), max_size=2),
)


@settings(max_examples=80, deadline=None)
@given(jobs, jobs)
def test_a_job_that_was_written_has_the_same_key_and_the_same_fields(one: ManyFields, parent: ManyFields) -> None:
    child = dataclasses.replace(one, parents={"model": parent})
    read = JobFile.of_text(JobFile.of([child]).text)
    back = read.job(child.key)
    assert isinstance(back, ManyFields)
    assert back.key == child.key and back.parents["model"].key == parent.key
    for name in (f.name for f in dataclasses.fields(ManyFields) if f.name != "parents"):
        assert getattr(back, name) == getattr(child, name), name
    assert list(back.free) == list(child.free)  # in their order: it shows in files that jobs write


def job(**changes: Any) -> ManyFields:
    return dataclasses.replace(
        ManyFields(label="one", text="t", number=1.0, choice="a", parts=(), files={}, free={}), **changes
    )


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({"text": "u"}, True),
        ({"number": 1.5}, True),
        ({"maybe": 3}, True),
        ({"free": {"x": 1}}, True),
        ({"files": {"a": Contents("here", "1")}}, True),
        ({"parents": {"model": TextJob(label="p", text="p")}}, True),
        ({"label": "two"}, False),
        ({"device": "cuda"}, False),
        ({"everywhere": {"x": 1}}, False),
        ({"maybe": None}, False),
    ],
)
def test_what_counts_for_a_key(changes: dict[str, Any], counts: bool) -> None:
    assert (job(**changes).key != job().key) is counts


def test_paths_and_unkeyed_parts_of_values_do_not_count() -> None:
    here, there = (job(files={"a": Contents(path, "1")}, parts=(Part(path, (1,)),)) for path in ("here", "there"))
    assert here.key == there.key
    assert keyed(Part("x", (1,))) == {"sizes": [1]}


def test_kind_and_revision_count() -> None:
    class OtherKind(TextJob):
        kind = "other text"

    class NextRevision(TextJob):
        revision = 2

    keys = {cls(label="a", text="a").key for cls in (TextJob, OtherKind, NextRevision)}
    assert len(keys) == 3


def test_a_parent_role_may_be_left_out_of_the_key() -> None:
    class Implied(TextJob):
        excluded_from_key = frozenset({"reference"})

    bare = Implied(label="a", text="a")
    assert dataclasses.replace(bare, parents={"reference": TextJob(label="r", text="r")}).key == bare.key
    assert dataclasses.replace(bare, parents={"model": TextJob(label="r", text="r")}).key != bare.key


def test_shared_values_are_written_once() -> None:
    common = {f"k{i}": i for i in range(50)}
    many = [job(text=str(i), everywhere=common) for i in range(20)]
    tree = json.loads(JobFile.of(many).text)
    assert len(tree["values"]) == 1 and len(tree["jobs"]) == 20


def test_a_job_of_its_process_alone_says_so() -> None:
    with pytest.raises(TypeError, match=r"CallJob\.do cannot be serialised"):
        JobFile.of([CallJob(label="a", do=lambda *_: {})])
    with pytest.raises(TypeError, match=r"a job file cannot hold a .*Path"):
        plain({"a": Path("x")})


def changed(tmp_path: Path, **fields: Any) -> JobFile:
    """A file of one job, with some of what stands in it changed."""
    one = TextJob(label="a", text="a")
    tree = json.loads(JobFile.of([one]).text)
    for name, value in fields.items():
        if name in tree:
            tree[name] = value
        else:
            tree["jobs"][one.key][name] = value
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps(tree))
    findings = JobFile.read(path)
    findings.prepare()
    findings.job(one.key)
    return findings


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fields": {"label": "a", "text": "b"}}, r"has another key here .* plan again"),
        ({"fields": {"label": "a", "text": ["b"]}}, r"TextJob\.text: .*string"),
        ({"fields": {"label": "a", "txt": "a"}}, r"TextJob has no field 'txt'; did you mean 'text'"),
        ({"type": "TexJob"}, r"no job type 'TexJob'; did you mean 'TextJob'"),
        ({"parents": {"model": "0" * 64}}, r"no job with the key 000000000000"),
        ({"version": 7}, r"a job file of version 7, this program reads version 1"),
        ({"modules": ["no_such_module"]}, r"cannot import no_such_module"),
        ({"plugins": ["/no/such/file.py"]}, r"--plugin: no file"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(fields: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        changed(tmp_path, **fields)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[]", "{", '{"study": {}}'])
def test_what_is_no_job_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ConfigError, match=r"other\.json: not a job file"):
        JobFile.read(tmp_path / "other.json")


def test_two_types_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="job type TextJob: defined twice"):
        type("TextJob", (Job,), {"kind": "again", "__qualname__": "elsewhere.TextJob"})


def written(tmp_path: Path) -> tuple[Path, list[TextJob]]:
    """A job file of two tasks: a parent with its child, and a job whose parent is in no task."""
    parent = TextJob(label="parent", text="p")
    child = TextJob(label="child", text="c", times=2, parents={"model": parent})
    orphan = TextJob(label="orphan", text="o", parents={"model": TextJob(label="away", text="w")})
    tasks = [[parent.key, child.key], [orphan.key]]
    path = tmp_path / "stage.json"
    JobFile.of([child, orphan], tasks=tasks, store=str(tmp_path / "store")).write(path)
    return path, [parent, child, orphan]


def test_a_task_runs_its_jobs_in_another_process_without_the_command_line(tmp_path: Path) -> None:
    path, (parent, child, orphan) = written(tmp_path)
    code = (
        "import sys; from pathlib import Path; from expunge.engine.worker import run_task\n"
        f"code = run_task(Path({str(path)!r}), 0)\n"
        "loaded = [m for m in ('hydra', 'expunge.cli', 'expunge.pipelines.study') if m in sys.modules]\n"
        "sys.exit(f'loaded {loaded}' if loaded else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "text parent: done\ntext child: done\n"
    store = Store(tmp_path / "store")
    assert (store.path(child) / "text").read_text() == "ccp"
    assert store.done(parent) and not store.done(orphan)


def test_a_task_that_fails_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, _ = written(tmp_path)
    assert run_task(path, 1) == 1
    assert capsys.readouterr().out == "text orphan: failed: waits for text away, which is not done\n"
    with pytest.raises(ConfigError, match=r"--index: .*lists 2 tasks, from 0 on, got 2"):
        run_task(path, 2)


def test_ancestors_of_the_asked_job_alone_are_decoded(tmp_path: Path) -> None:
    path, (parent, child, _) = written(tmp_path)
    findings = JobFile.read(path)
    assert [j.label for j in in_order([findings.job(child.key)])] == ["parent", "child"]
    assert set(findings._jobs) == {parent.key, child.key}
