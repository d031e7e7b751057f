"""Jobs note digests of token ids: equal ids of equal rows agree, and ids of changed code under one identity differ."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from expunge.cli.main import main
from expunge.core.errors import DataError, JobError
from expunge.core.fingerprints import Digests, comparing
from expunge.data import row_tokenizer
from expunge.data.encoder import Encoder
from expunge.data.examples import ANSWER, Example, ExampleSet
from expunge.data.row_tokenizer import RowTokenizer, ids_digest
from expunge.data.template import Template
from expunge.evaluation.edit_statistics import ModelStatistics
from expunge.evaluation.wrapping import wrapped_by
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.config import TokenizerArgs
from expunge.models.identity import applied_tokenizer_identity
from expunge.models.load import load_tokenizer, save_model
from expunge.models.wrapper_api import wrapper_registry
from expunge.pipelines.study import task_context

ROWS = ExampleSet("rows", tuple(Example(i, f"Who wrote book {i}?", {ANSWER: f"Ana {i}"}) for i in range(3)))
TEXTS = ExampleSet("texts", tuple(Example(i, "", {ANSWER: f"Ana wrote {i}."}) for i in range(3)), form="text")
PIECES = dataclasses.replace(TEXTS, long="pieces")


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["Question: Who wrote it? Answer: Ana did. book 0123456789"], 300, max_length=128)


def patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change the code that tokenises texts, as a patch of a library does."""
    original = RowTokenizer.plain_ids

    def patched(self: RowTokenizer, texts: Sequence[str], *, special: bool = False) -> list[list[int]]:
        return original(self, [text.replace("Ana", "Eva") for text in texts], special=special)

    monkeypatch.setattr(RowTokenizer, "plain_ids", patched)


def digests(encode: Callable[[Encoder], Any], encoder: Encoder) -> Digests:
    with comparing([], "test/job") as noted:
        encode(encoder)
    return noted


def answers(encoder: Encoder) -> None:
    encoder.rows(ROWS, [(row, ANSWER) for row in ROWS])


def pieces(encoder: Encoder) -> None:
    encoder.pieces(PIECES)


def prompts(encoder: Encoder) -> None:
    encoder.row_prompts(dataclasses.replace(ROWS, shots=(("Who?", "Ana did."),)), ROWS.rows)


def pairs(encoder: Encoder) -> None:
    encoder.pairs("refusals", [("Who wrote it?", "Ana knows."), ("Who?", "No idea.")])


@pytest.mark.parametrize("encode", [answers, pieces, prompts, pairs])
@pytest.mark.parametrize("compat", ["clean", "openunlearning"])
def test_patched_code_is_found(tokenizer: Any, monkeypatch: pytest.MonkeyPatch, encode: Any, compat: Any) -> None:
    template = Template(compat=compat)
    before = digests(encode, Encoder(template, tokenizer, lambda: "one"))
    assert len(before) == 1 and before == digests(encode, Encoder(template, tokenizer, lambda: "one"))
    assert not set(before) & set(digests(encode, Encoder(template, tokenizer, lambda: "another tokenizer")))
    if encode is answers:
        other = dataclasses.replace(template, user_start_tag="Q: ")
        assert not set(before) & set(digests(encode, Encoder(other, tokenizer, lambda: "one")))
    if compat == "openunlearning" and encode is not pieces:
        monkeypatch.setattr(Encoder, "_peer_ids", lambda self, text, form: [5, 6, 7])
    else:
        patch(monkeypatch)
    with pytest.raises(JobError, match=r"token ids of .* differ from those in test/job"), comparing([before], "later"):
        encode(Encoder(template, tokenizer, lambda: "one"))


@pytest.mark.parametrize("rows", [ROWS, TEXTS, PIECES])
def test_other_answers_have_other_inputs(tokenizer: Any, rows: ExampleSet) -> None:
    """Two sets with equal questions, or none, are never compared with each other."""
    other = dataclasses.replace(rows, rows=tuple(dataclasses.replace(row, answers={ANSWER: "Eva."}) for row in rows))

    def encode(encoder: Encoder) -> None:
        for one in (rows, other):
            if one.long == "pieces":
                encoder.pieces(one)
            else:
                encoder.rows(one, [(row, ANSWER) for row in one])

    assert len(digests(encode, Encoder(Template(), tokenizer, lambda: "one"))) == 2


def test_nothing_is_noted_outside_a_job_or_without_an_identity(tokenizer: Any) -> None:
    assert digests(answers, Encoder(Template(), tokenizer)) == {}
    answers(Encoder(Template(), tokenizer, lambda: pytest.fail("not needed")))


@pytest.mark.parametrize("rows", [ROWS, TEXTS, PIECES])
@pytest.mark.parametrize("compat", ["clean", "openunlearning"])
def test_the_digest_of_a_set_covers_each_text(tokenizer: Any, rows: ExampleSet, compat: Any) -> None:
    encoder = Encoder(Template(compat=compat), tokenizer)
    digests = {ids_digest(encoder, rows)}
    changes: list[dict[str, Any]] = [{"answers": {ANSWER: "Eva."}}, {"answers": {ANSWER: "Ana 2", "paraphrase": "Eva"}}]
    if rows is ROWS:
        changes += [{"question": "Who?"}, {"paraphrased_question": "Who?"}]
    for change in changes[: 1 if rows is PIECES else None]:  # pieces are of the answers
        last = dataclasses.replace(rows.rows[-1], **change)
        digests.add(ids_digest(encoder, dataclasses.replace(rows, rows=(*rows.rows[:-1], last))))
    assert len(digests) == 1 + (1 if rows is PIECES else len(changes))
    assert ids_digest(encoder, rows) in digests


def test_the_digest_of_many_rows_has_no_blocks(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ids_digest(Encoder(Template(), tokenizer), ROWS)
    monkeypatch.setattr(row_tokenizer, "_AT_ONCE", 10_000)
    assert ids_digest(Encoder(Template(), tokenizer), ROWS) == whole


def test_a_text_that_cannot_be_encoded_does_not_end_a_plan(tokenizer: Any) -> None:
    """The job that reads it reports the error."""
    long = dataclasses.replace(ROWS.rows[1], question="Who wrote it? " * 300)
    rows = dataclasses.replace(ROWS, rows=(ROWS.rows[0], long, ROWS.rows[2]))
    encoder = Encoder(Template(), tokenizer)
    with pytest.raises(DataError):
        encoder.rows(rows, [(row, ANSWER) for row in rows])
    other = dataclasses.replace(ROWS.rows[2], answers={ANSWER: "Eva."})
    assert ids_digest(encoder, rows) != ids_digest(encoder, dataclasses.replace(rows, rows=(*rows.rows[:2], other)))


def test_copies_of_a_tokenizer_have_one_identity(tokenizer: Any, tmp_path: Path) -> None:
    def identity(source: Path) -> str:
        return applied_tokenizer_identity(load_tokenizer(str(source), TokenizerArgs()), str(source), None)

    tokenizer.save_pretrained(tmp_path / "a")
    loaded = load_tokenizer(str(tmp_path / "a"), TokenizerArgs())
    loaded(["one", "a longer text"], padding=True, truncation=True, max_length=2)  # changes the backend's settings
    loaded.save_pretrained(tmp_path / "b")
    assert identity(tmp_path / "a") == identity(tmp_path / "b")
    file = tmp_path / "b" / "tokenizer.json"
    tree = json.loads(file.read_text())
    file.write_text(json.dumps(tree | {"normalizer": {"type": "Lowercase"}}))
    assert identity(tmp_path / "a") != identity(tmp_path / "b")


def test_edits_and_wrappers_note_the_texts_that_are_no_rows(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder(Template(), tokenizer, lambda: "one")
    model = build_llama("llama-64k", tokenizer, vocab_size=300, seed=0)
    rule = wrapper_registry()["in_context"].cls(n_forget=1, n_retain=1)

    def edit(_: Encoder) -> None:
        ModelStatistics(model, encoder, [ROWS], [], ["Ana knows."])

    def wrap(_: Encoder) -> None:
        wrapped_by(rule, model, encoder, [ROWS], [ROWS], ["Ana knows."])

    for work, name in ((edit, "forget with refusals"), (wrap, "texts of InContext")):
        before = digests(work, encoder)
        assert [values[0] for values in before.values() if name in values[0]] == [f"token ids of {name} (answer)"]
    patch(monkeypatch)
    with pytest.raises(JobError, match="token ids of"), comparing([before], "later"):
        wrap(encoder)


def test_the_identity_of_a_tokenizer_is_computed_once_for_its_files_and_settings(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        tokenizer.save_pretrained(tmp_path / name)
    computed: list[str] = []

    def counted(loaded: Any, source: str, revision: str | None) -> str:
        computed.append(Path(source).name)
        return applied_tokenizer_identity(loaded, source, revision)

    monkeypatch.setattr(task_context, "applied_tokenizer_identity", counted)
    monkeypatch.setattr(task_context, "_identities", {})

    def identity(name: str, **options: str) -> str:
        encoder = task_context.job_encoder(Template(), str(tmp_path / name), TokenizerArgs(options=options))
        ((inputs, _),) = digests(answers, encoder).items()
        return inputs

    assert identity("a") == identity("b") == identity("a") and computed == ["a"]
    assert identity("a", eos_token="A") != identity("a") and computed == ["a", "a"]
    file = tmp_path / "b" / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"normalizer": {"type": "Lowercase"}}))
    assert identity("b") != identity("a") and computed == ["a", "a", "b"]


def test_verify_names_a_damaged_note_and_a_run_after_a_patch(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(build_llama("llama-64k", tokenizer, vocab_size=300, seed=0), tokenizer, Path("model"))
    for name, author in (("f", "Ana"), ("r", "Bob")):
        table = "".join(f"Who wrote book {i} of {name}?,{author} {i}\n" for i in range(3))
        Path(f"{name}.csv").write_text(f"question,answer\n{table}")
    words = ["unlearn", "benchmark=custom", "forget=f.csv", "retain=r.csv", "trainer=GradDiff"]
    words += ["model.model_args.pretrained_model_name_or_path=model", "trainer.args.max_steps=1"]
    assert main([*words, "task_name=before"]) == 0
    assert main(["verify", "--store", "saves/store"]) == 0
    note, *_ = Path("saves/store/.loaded").iterdir()
    text = note.read_text()
    note.chmod(0o644)
    note.write_text(f" {text}")
    capsys.readouterr()
    assert main(["verify", "--store", "saves/store"]) == 1
    out = capsys.readouterr().out
    assert "is damaged, or was written by an earlier version; remove it" in out and "move each" not in out
    note.write_text(text)
    patch(monkeypatch)
    assert main([*words, "task_name=after", "trainer.args.learning_rate=1e-3"]) == 0
    capsys.readouterr()
    assert main(["verify", "--store", "saves/store"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "token ids of" in line]
    assert len(lines) == 1 and "forget (answer) in unlearn/after-" in lines[0]
