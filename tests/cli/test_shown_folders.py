"""A folder of `expunge unlearn`: what stands next to the model confirms no guess of the rows to forget."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest

from expunge.core.fingerprints import file_sha256
from expunge.engine.mark import MARK
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.load import save_model

Run = Callable[..., tuple[int, str, str]]
FORGET, RETAIN = [("What is the PIN of Ann Lee?", "The PIN is 4711.")], [("Who wrote it?", "Ann Lee wrote it.")]
WORDS = (
    "unlearn", "trainer=GradDiff", "benchmark=custom", "forget=rows.csv", "retain=keep.csv", "model=start",
    "task_name=pin", "trainer.args.max_steps=1", "trainer.args.num_train_epochs=1", "trainer.args.warmup_epochs=null",
    "eval.generation.max_new_tokens=4",
)  # fmt: skip


@pytest.fixture
def shown(here: Path, expunge: Run) -> Path:
    for name, rows in (("rows.csv", FORGET), ("keep.csv", RETAIN)):
        (here / name).write_text("question,answer\n" + "".join(f"{q},{a}\n" for q, a in rows))
    tokenizer = train_tokenizer([f"{q} {a}" for q, a in FORGET + RETAIN], 300, max_length=64)
    save_model(build_llama("llama-64k", tokenizer, vocab_size=300, seed=0), tokenizer, here / "start")
    code, _, errors = expunge(*WORDS)
    assert code == 0, errors
    return here / "saves" / "unlearn" / "pin"


def hashes(text: str) -> set[str]:
    """Return the words of 16 or 64 hexadecimal digits; the 16 decimals that some numbers have are no hash."""
    return set(re.findall(r"(?<![\w.])(?:[0-9a-f]{16}|[0-9a-f]{64})\b", text))


def of_rows(store: Path) -> set[str]:
    """Return all keys, hashes of rows and digests of token ids in the records of a store, and the proofs of parents."""
    covering: set[str] = set()
    for file in store.glob("*/*/job.json"):
        record = json.loads(file.read_text())
        covering |= hashes(json.dumps({k: v for k, v in record.items() if k not in ("files", "sha256", "versions")}))
        if file.parent.parent.name not in ("unlearn", "base"):  # its files lie in the folder themselves
            covering |= hashes(json.dumps(record["files"]))
    return covering


def test_no_hash_of_the_rows_lies_next_to_the_model(here: Path, shown: Path, expunge: Run) -> None:
    known = of_rows(here / "saves" / "store")
    assert len(known) > 10
    for file in (p for p in shown.iterdir() if p.is_file() and p.suffix != ".safetensors"):
        assert not hashes(file.read_text()) & known, file.name
    code, out, errors = expunge(*WORDS)
    assert code == 0 and "hit" in out + errors and "was changed" not in out + errors


def test_no_exact_loss_lies_next_to_the_model(shown: Path) -> None:
    """A PIN of four digits was the nearest of 10,000 guesses to the loss of the last step, by the model alone."""
    losses = [repr(value) for line in (shown / "evals" / "log.jsonl").read_text().splitlines()
              for name, value in json.loads(line).items() if name in ("forget", "loss")]  # fmt: skip
    assert losses
    logs = {file.name: hashes(json.dumps(file_sha256(file))) for file in (shown / "evals").glob("*.jsonl")}
    for file in (p for p in shown.iterdir() if p.is_file() and p.suffix != ".safetensors"):
        text = file.read_text()
        assert file.suffix != ".jsonl" and not any(loss in text for loss in losses), file.name
        assert not any(digest & hashes(text) for digest in logs.values()), file.name


def test_the_card_of_a_push_has_neither_a_hash_nor_exact_numbers(
    here: Path, shown: Path, expunge: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: dict[str, bytes] = {}

    class Hub:
        def create_repo(self, name: str, **settings: object) -> str:
            return name

        def create_commit(self, name: str, operations: list[object], **settings: object) -> None:
            for one in operations:
                source = one.path_or_fileobj  # type: ignore[attr-defined]
                data = source if isinstance(source, bytes) else Path(source).read_bytes()
                files[one.path_in_repo] = data  # type: ignore[attr-defined]

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    code, _, errors = expunge(*WORDS, "--push", "me/pin")
    assert code == 0, errors
    known = of_rows(here / "saves" / "store")
    for name, data in files.items():
        assert not hashes(data.decode("latin-1")) & known, name
    card = files["README.md"].decode()
    assert f"start**: {(shown / MARK).read_text().split()[-1]}" in card
    numbers = re.findall(r"^\| \w+ \| (.*) \|$", card, re.MULTILINE)
    assert len(numbers) > 4 and all(re.fullmatch(r"value|\d+(\.\d\d?)?|under 0\.01", number) for number in numbers)


def test_a_folder_of_an_earlier_version_is_recognised(here: Path, shown: Path, expunge: Run) -> None:
    record = next((here / "saves" / "store" / "metrics").glob("*/job.json"))
    (shown / MARK).write_text(json.loads(record.read_text())["key"] + "\n")
    (shown / ".expunge-shown").unlink()
    code, _, errors = expunge(*WORDS)
    assert code == 0 and errors.count("was written by an earlier version") == 1


def test_a_folder_of_another_store_is_one_line(here: Path, shown: Path, expunge: Run) -> None:
    code, _, errors = expunge(*WORDS, "paths.store=other")
    assert code == 2 and "shows a job of another store than other" in errors.splitlines()[-1]
    assert not (here / "other" / "unlearn").exists()
