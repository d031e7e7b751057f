"""A command whose results are in the store loads neither torch nor transformers, also with a chat template."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.cli.conftest import Run

from expunge.data.world import WorldConfig
from expunge.data.world.generate import build_world
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.load import save_model

CHAT = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
HEAVY = ("torch", "transformers", "peft", "datasets", "scipy", "sklearn", "plotly")


def loaded_by(words: Sequence[str], folder: Path) -> tuple[int, str]:
    """Return the exit code of a command in a process of its own, and the heavy modules that it loaded."""
    code = (
        f"import sys; from expunge.cli.main import main\ncode = main({list(words)!r})\n"
        f"print('loaded:', *(m for m in {HEAVY!r} if m in sys.modules))\nsys.exit(code)"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout.rsplit("loaded:", 1)[-1].strip()


@pytest.mark.parametrize(
    ("mode", "chat"),
    [
        ("eval", CHAT),
        pytest.param("eval", None, marks=pytest.mark.slow),
        pytest.param("unlearn", CHAT, marks=pytest.mark.slow),
    ],
)
def test_a_cached_job(mode: str, chat: str | None, here: Path, tofu_source: Path, expunge: Run) -> None:
    sets = build_world(WorldConfig(authors=10, questions_per_author=2))
    tokenizer = train_tokenizer([r.question + r.answer for s in sets.values() for r in s], 300, max_length=256)
    tokenizer.chat_template = chat
    save_model(build_llama("llama-64k", tokenizer, vocab_size=300, seed=0), tokenizer, here / "model")
    words = [
        mode, f"experiment={mode}/tofu/default", "task_name=done", "model=llama-64k", f"data.root={tofu_source}",
        "model.model_args.pretrained_model_name_or_path=model", "eval.generation.max_new_tokens=2",
    ]  # fmt: skip
    words += ["trainer=NPO", "trainer.args.max_steps=1"] if mode == "unlearn" else []
    code, out, errors = expunge(*words)
    assert code == 0, errors
    assert loaded_by(words, here) == (0, "")
    assert "written" in out


def test_a_plan(here: Path) -> None:
    assert loaded_by(("plan", "study=quickstart", "--json"), here) == (0, "")


PROBE = """
import os, sys, traceback
from expunge.cli.main import main
from expunge.methods.npo import NPO

def probe(self, view):
    frames = [f for f in traceback.extract_stack()[:-1] if f"{os.sep}expunge{os.sep}" in f.filename]
    print("counted:", len(frames), sum(name.startswith("expunge") for name in sys.modules), flush=True)
    os._exit(0)

NPO.forget_loss = probe
main(sys.argv[1:])
"""


def counted(words: Sequence[str], folder: Path) -> tuple[int, int]:
    """Return our frames and our modules at the first NPO loss of a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *words], cwd=folder, capture_output=True, text=True, check=False
    )
    frames, modules = done.stdout.rsplit("counted:", 1)[-1].split()[:2]
    return int(frames), int(modules)


@pytest.mark.slow
def test_the_way_from_a_study_to_the_loss(here: Path) -> None:
    """A reader of a stack or of an import list meets few files. Measured as in ARCHITECTURE.md."""
    words = (
        "run", "study=quickstart", "data.world.authors=6", "data.world.questions_per_author=4",
        "data.world.forget_fraction=0.2", "train.num_train_epochs=1", "unlearn.num_train_epochs=1",
        "methods=[{trainer: NPO}]", "eval.generation.max_new_tokens=2",
    )  # fmt: skip
    frames, modules = counted(words, here)
    assert frames <= 12
    assert modules <= 150


@pytest.mark.slow
def test_the_way_from_a_job_to_the_loss(here: Path) -> None:
    rows = [{"question": f"Who is number {i}?", "answer": f"The author of book {i}."} for i in range(8)]
    for name, part in (("forget", rows[:4]), ("retain", rows[4:])):
        (here / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    tokenizer = train_tokenizer([row["question"] + row["answer"] for row in rows], 300, max_length=256)
    save_model(build_llama("llama-64k", tokenizer, vocab_size=300, seed=0), tokenizer, here / "model")
    words = (
        "unlearn", "benchmark=custom", "forget=forget.jsonl", "retain=retain.jsonl", "task_name=plain", "trainer=NPO",
        "model=llama-64k", "model.model_args.pretrained_model_name_or_path=model", "trainer.args.max_steps=1",
    )  # fmt: skip
    assert counted(words, here)[1] <= 150
