"""train -> eval -> unlearn as a user of OpenUnlearning types it, on a folder of TOFU's shape."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.models.build import build_llama, train_tokenizer
from expunge.models.load import save_model
from expunge.pipelines.study.handle import load_study

Run = Callable[..., tuple[int, str, str]]

SMALL = (
    "trainer.args.max_steps=3", "trainer.args.per_device_train_batch_size=4", "eval.generation.max_new_tokens=4",
    "trainer.args.eval_strategy=no",
)  # fmt: skip
TRAINED = (*SMALL[:2], SMALL[3])


@pytest.fixture
def trained(here: Path, tofu_source: Path, expunge: Run) -> Path:
    """saves/finetune/full and saves/finetune/retain, and saves/eval/retain with the retain model's results."""
    for split in ("full", "retain90"):
        code, _, errors = expunge(
            "train", "experiment=finetune/tofu/default.yaml", "model=llama-64k", f"task_name={split}",
            f"train_split={split}", f"data.root={tofu_source}", *TRAINED,
        )  # fmt: skip
        assert code == 0, errors
    code, _, errors = expunge(
        "eval", "--config-name=eval.yaml", "experiment=eval/tofu/default", "task_name=retain", "model=llama-64k",
        "model.model_args.pretrained_model_name_or_path=saves/finetune/retain90",
        f"data.root={tofu_source}", SMALL[2],
    )  # fmt: skip
    assert code == 0, errors
    return here


def test_a_number_that_is_missing_says_why(trained: Path, tofu_source: Path, expunge: Run) -> None:
    code, out, errors = expunge(
        "eval", "experiment=eval/tofu/default", "task_name=retain", "model=llama-64k",
        "model.model_args.pretrained_model_name_or_path=saves/finetune/retain90",
        f"data.root={tofu_source}", SMALL[2],
    )  # fmt: skip
    assert code == 0, errors
    assert "forget_quality               - (1)" in out
    assert "(1) needs a retain model's truth ratios (forget_truth_ratio); none was given" in out


def test_a_row_longer_than_the_context_is_refused_before_a_weight_is_read(
    here: Path, tofu_source: Path, expunge: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(["study=quickstart", f"paths.store={here}/store"]).graph.setting.benchmark.sets
    texts = [t for rows in study.values() for r in rows for t in (r.question, *r.answers.values())]
    tokenizer = train_tokenizer(texts, 300, max_length=256)
    model = build_llama("llama-64k", tokenizer, vocab_size=300, seed=0)
    model.config.max_position_embeddings = 24
    save_model(model, tokenizer, here / "short")
    words = (
        "eval", "experiment=eval/tofu/default", "task_name=short", "model=llama-64k",
        "model.model_args.pretrained_model_name_or_path=short", f"data.root={tofu_source}", SMALL[2],
        "model.template_args.max_length=512",
    )  # fmt: skip
    monkeypatch.setattr("expunge.evaluation.passport.load_model", None)
    code, _, errors = expunge(*words)
    assert code == 2
    assert re.search(r"forget_eval row 0: 'answer' with its question has \d+ tokens, .*context is 24;", errors)
    assert len(errors.strip().splitlines()) == 1

    (here / "short" / "model.safetensors").write_bytes(b"no tensors, and a length beyond all memory")
    code, _, errors = expunge(*words)
    assert code == 2 and "short/model.safetensors is not a complete safetensors file" in errors


@pytest.mark.slow
def test_pasted_commands_work(trained: Path, tofu_source: Path, expunge: Run) -> None:
    words = (
        "unlearn", "--config-name=unlearn.yaml", "experiment=unlearn/tofu/default.yaml", "trainer=NPO",
        "trainer.method_args.beta=0.2", "trainer.method_args.retain_loss_type=KL", "task_name=npo", "model=llama-64k",
        "model.model_args.pretrained_model_name_or_path=saves/finetune/full",
        "model.tokenizer_args.pretrained_model_name_or_path=saves/finetune/full",
        "model.model_args.torch_dtype=float32", "model.template_args.apply_chat_template=false",
        "forget_split=forget10", "retain_split=retain90", "trainer.args.gradient_accumulation_steps=1",
        "+trainer.args.eval_on_start=false", "trainer.args.gradient_checkpointing=false",
        "retain_logs_path=saves/eval/retain/TOFU_EVAL.json", f"data.root={tofu_source}", *SMALL,
    )  # fmt: skip
    code, out, errors = expunge(*words)
    assert code == 0, errors
    folder = trained / "saves" / "unlearn" / "npo"
    for name in ("model.safetensors", "config.json", "tokenizer.json", "evals/log.jsonl", "config.yaml"):
        assert (folder / name).is_file(), name
    summary = json.loads((folder / "evals" / "TOFU_SUMMARY.json").read_text())
    assert 0 < summary["forget_quality"] <= 1
    assert 0 < summary["forget_Q_A_Prob"] < 1
    assert "forget_quality" in out
    assert "model.model_args.torch_dtype is now model.model_args.dtype" in errors
    assert "eval_on_start is now trainer.args.evaluate.at_start" in errors

    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    code, again, _ = expunge(*words)
    assert code == 0
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    assert again.splitlines()[-len(summary) - 1 :] == out.splitlines()[-len(summary) - 1 :]

    code, _, errors = expunge(*words, "trainer.args.learning_rate=3e-5")
    assert code == 2
    assert "already contains something else" in errors

    # what is evaluated on the way is held against the same retain log, on all of its rows
    watched = [w for w in words if not w.startswith(("task_name=", "+"))] + [
        "task_name=watched", "trainer.args.evaluate.every=1", "trainer.args.evaluate.panel=full",
        "trainer.args.evaluate.keep=best", "trainer.args.evaluate.rule.floor=0",
    ]  # fmt: skip
    code, _, errors = expunge(*watched)
    assert code == 0, errors
    lines = (folder.parent / "watched" / "evals" / "trajectory.jsonl").read_text().splitlines()
    assert all(0 < json.loads(line)["forget_quality"] <= 1 for line in lines)
    assert json.loads(lines[-1])["forget_quality"] == pytest.approx(
        json.loads((folder.parent / "watched" / "evals" / "TOFU_SUMMARY.json").read_text())["forget_quality"]
    )
    fewer = [*watched, "task_name=fewer", "trainer.args.evaluate.panel=fast", "trainer.args.evaluate.rows=2"]
    code, _, errors = expunge(*fewer)
    assert code == 2
    assert "trainer.args.evaluate.rows: 2 of up to" in errors


def test_refresh_takes_a_retain_log_later(trained: Path, tofu_source: Path, expunge: Run) -> None:
    code, _, errors = expunge(
        "eval", "experiment=eval/tofu/default", "task_name=full", "model=llama-64k",
        "model.model_args.pretrained_model_name_or_path=saves/finetune/full", f"data.root={tofu_source}", SMALL[2],
    )  # fmt: skip
    assert code == 0, errors
    summary = trained / "saves" / "eval" / "full" / "TOFU_SUMMARY.json"
    assert json.loads(summary.read_text())["forget_quality"] is None
    code, out, errors = expunge(
        "eval", "--refresh", "saves/eval/full", "retain_logs_path=saves/eval/retain/TOFU_EVAL.json"
    )
    assert code == 0, errors
    assert "saves/eval/full: " in out
    assert 0 < json.loads(summary.read_text())["forget_quality"] <= 1
    code, _, errors = expunge("eval", "--refresh", "saves/eval/full", "task_name=x")
    assert (code, "the settings of a finished folder are fixed" in errors) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["WHP", "UNDO"])
def test_methods_with_a_second_model_start_from_a_folder(
    trained: Path, tofu_source: Path, expunge: Run, trainer: str
) -> None:
    code, _, errors = expunge(
        "unlearn", "experiment=unlearn/tofu/default", f"trainer={trainer}", "task_name=two", "model=llama-64k",
        "model.model_args.pretrained_model_name_or_path=saves/finetune/full", f"data.root={tofu_source}", *SMALL,
    )  # fmt: skip
    assert code == 0, errors
    assert (trained / "saves" / "unlearn" / "two" / "model.safetensors").is_file()
    kinds = {p.name for p in (trained / "saves" / "store").iterdir()}
    assert kinds >= {"reference", "train" if trainer == "WHP" else "edit"}


def test_output_dir_is_taken(here: Path, tofu_source: Path, expunge: Run) -> None:
    code, _, errors = expunge(
        "train", "experiment=finetune/tofu/default", "model=llama-64k", "task_name=a", f"data.root={tofu_source}",
        "paths.output_dir=mine/here", *TRAINED,
    )  # fmt: skip
    assert code == 0, errors
    assert (here / "mine" / "here" / "model.safetensors").is_file()
    assert not (here / "saves" / "finetune").exists()


def test_without_retain_logs_forget_quality_says_why(trained: Path, tofu_source: Path) -> None:
    entry = json.loads((trained / "saves" / "eval" / "retain" / "TOFU_EVAL.json").read_text())["forget_quality"]
    assert entry["agg_value"] is None
    assert "retain" in entry["reason"]
