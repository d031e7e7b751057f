"""A record kind and a metric from a user's own file, as the user types it: eval, and --refresh without the model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.models.build import build_llama, train_tokenizer
from expunge.models.load import save_model

Run = Callable[..., tuple[int, str, str]]
PLUGIN = Path(__file__).resolve().parents[2] / "examples" / "plugins" / "hidden_norm.py"
NAMES = {"forget_hidden_norm", "retain_hidden_norm"}
WORDS = (
    "benchmark=world", "task_name=mine", "model=llama-64k", "model.model_args.pretrained_model_name_or_path=tiny",
    "data.world.authors=4", "data.world.questions_per_author=3", "data.world.forget_fraction=0.25",
    "data.world.facts=3", "data.world.holdout_authors=1", "eval.generation.max_new_tokens=2",
)  # fmt: skip


def summary() -> dict[str, float | None]:
    return json.loads(Path("saves/eval/mine/TOFU_SUMMARY.json").read_text())


@pytest.mark.slow
def test_a_plugin_metric_joins_a_benchmark(here: Path, expunge: Run) -> None:
    texts = ["Who wrote the book? Ana did, in Paris, by the sea.", "Nobody knows what the publisher said in 1991."] * 9
    tokenizer = train_tokenizer(texts, 300, max_length=256)
    save_model(build_llama("llama-64k", tokenizer, vocab_size=320, seed=0), tokenizer, here / "tiny")
    code, _, errors = expunge("eval", *WORDS, "eval.metrics=[hidden_norm]")
    assert code == 2
    assert "eval.metrics: no metric named 'hidden_norm'" in errors and "--plugin FILE.py" in errors
    code, _, errors = expunge("eval", *WORDS, "eval.metrics=[hidden_norm]", "--plugin", str(PLUGIN))
    assert code == 0, errors
    before = summary()
    assert all((before[name] or 0) > 0 for name in NAMES)
    assert (here / "saves" / "eval" / "mine" / "records" / "forget_eval.hidden_norm.parquet").is_file()
    code, _, errors = expunge("eval", *WORDS, "task_name=plain")
    assert code == 0, errors
    code, _, errors = expunge("eval", "--plugin", str(PLUGIN), *WORDS, "task_name=plain", "eval.metrics=[hidden_norm]")
    assert code == 2
    assert "expunge eval --refresh saves/eval/plain eval.metrics=[hidden_norm]" in errors
    shutil.rmtree(here / "tiny")
    code, output, errors = expunge(
        "eval", "--plugin", str(PLUGIN), "--refresh", "saves/eval/plain", "eval.metrics=[hidden_norm]"
    )
    assert code == 0, errors
    assert "no number: forget_hidden_norm: no hidden_norm records of the rows 'forget_eval' were made" in output
    assert "--refresh reads no model; run its config.yaml again" in output
    code, _, errors = expunge("eval", "--plugin", str(PLUGIN), "--refresh", "saves/eval/mine", "eval.metrics=[]")
    assert code == 0, errors
    assert not NAMES & set(summary())
    code, _, errors = expunge(
        "eval", "--plugin", str(PLUGIN), "--refresh", "saves/eval/mine", "eval.metrics=[hidden_norm]"
    )
    assert code == 0, errors
    assert summary() == before
