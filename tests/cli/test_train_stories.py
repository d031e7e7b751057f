"""Stories from nothing to a pretrained and a fine-tuned model, as a user types it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from expunge.cli.compose import single_tree
from expunge.core.decode import decode
from expunge.engine.job import Estimate, Job
from expunge.engine.run import JobEvent, PlannedJob
from expunge.pipelines.study.single_config import SingleJob
from expunge.pipelines.study.task_config import decode_task
from expunge.report import display
from expunge.training.config import TrainArgs

Run = Callable[..., tuple[int, str, str]]
DATA = ("data.root=st/tok400", "data.args.max_seq_len=128")
SMALL = (
    "trainer.args.per_device_train_batch_size=4", "trainer.args.max_steps=6", "trainer.args.evaluate.steps=4",
    "trainer.args.evaluate.rows=3", "trainer.args.evaluate.prompts=1", "eval.generation.max_new_tokens=4",
)  # fmt: skip

# experiment: (model, batch, accumulation, learning rate, steps, schedule, width)
PRESETS = {
    "pretrain": ("llama-8m", 512, 1, 5e-4, 100_000, "cosine", 256),
    "pretrain_30m": ("llama-30m", 128, 4, 5e-4, 100_000, "cosine", 256),
    "pretrain_91m": ("llama-91m", 128, 4, 5e-4, 100_000, "cosine", 256),
    "pretrain_210m": ("llama-210m", 128, 1, 1e-4, 30_000, "cosine", 1024),
    "finetune": ("llama-91m", 128, 1, 1e-5, 4_000, "constant", 1024),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_values(name: str) -> None:
    tree, _ = single_tree("train", [f"experiment=stories/{name}", "task_name=x"])
    single = decode_task(SingleJob, tree)
    args = decode(TrainArgs, single.trainer.args, where="trainer.args")
    assert PRESETS[name] == (
        single.model.preset, args.per_device_train_batch_size, args.gradient_accumulation_steps, args.learning_rate,
        args.max_steps, args.lr_scheduler_type, single.data.args["max_seq_len"],
    )  # fmt: skip
    assert (args.adam_beta1, args.adam_beta2, args.weight_decay, args.max_grad_norm) == (0.9, 0.95, 0.1, 1.0)
    assert args.warmup(1) == (0 if name == "finetune" else 1000)
    assert args.dense_logging_steps == (200 if name == "finetune" else 0)


@pytest.mark.slow
def test_pretrain_then_fine_tune(here: Path, expunge: Run) -> None:
    for words in (
        ("generate", "--n", "80", "--out", "st", "--shards", "5", "--workers", "1"),
        ("train-vocab", "--in", "st", "--vocab_size", "400"),
        ("pretokenize", "--in", "st", "--vocab_size", "400", "--dataset_name", "all", "--workers", "1"),
        ("pretokenize", "--in", "st", "--vocab_size", "400", "--filtering=features=Twist", "--dataset_name=twist"),
    ):
        code, _, errors = expunge("data", "stories", *words)
        assert code == 0, errors
    words = ("train", "experiment=stories/pretrain", "model=llama-64k", *DATA, *SMALL, "trainer.args.warmup_steps=2")
    names = ("data.args.dataset_name=all", "data.args.eval_dataset_names=[twist]")
    code, _, errors = expunge(*words, *names, "task_name=base")
    assert code == 0, errors
    folder = here / "saves" / "train" / "base"
    points = [json.loads(x) for x in (folder / "evals" / "trajectory.jsonl").read_text().splitlines()]
    assert [p["step"] for p in points] == [0, 4, 6]
    assert all({"loss/test", "loss/twist"} <= set(p) for p in points)
    assert points[-1]["loss/test"] < points[0]["loss/test"]
    table = [json.loads(x) for x in (folder / "evals" / "generations.jsonl").read_text().splitlines()]
    assert all(x["prompt"].endswith("Story:") and x["target"] for x in table)
    assert [(x["step"], x["set"]) for x in table] == [(s, n) for s in (0, 6) for n in ("test", "twist")]
    facts = json.loads((folder / "job.json").read_text())["facts"]
    assert facts["speed"]["tokens"] == 6 * 4 * 128 and facts["evaluation"]["losses"] == {"test": 3, "twist": 3}
    assert json.loads((folder / "config.json").read_text())["vocab_size"] == 400

    inputs = "model.model_args.pretrained_model_name_or_path=saves/train/base"
    words = ("train", "experiment=stories/finetune", "model=llama-64k", inputs, *DATA, *SMALL)
    code, _, errors = expunge(
        *words, "data.args.dataset_name=twist", "task_name=recovered", "trainer.args.dense_logging_steps=2",
        "trainer.args.evaluate.keep=best",
    )  # fmt: skip
    assert code == 0, errors
    lines = (here / "saves" / "train" / "recovered" / "evals" / "log.jsonl").read_text().splitlines()
    assert [json.loads(x)["step"] for x in lines] == [1, 2, 6]
    facts = json.loads((here / "saves" / "train" / "recovered" / "job.json").read_text())["facts"]
    points = [json.loads(x) for x in (folder.parent / "recovered/evals/trajectory.jsonl").read_text().splitlines()]
    lowest = min(points[1:], key=lambda p: p["loss/test"])["step"]
    assert (facts["evaluation"]["best_step"], facts["evaluation"]["rule"]) == (lowest, {"formula": '-"loss/test"'})

    narrow = ("data.args.dataset_name=twist", "data.args.max_seq_len=8", "task_name=x")
    code, _, errors = expunge(*words, *narrow)
    assert code == 2 and "trainer.args.evaluate.prompts: no row of test has a prompt within 8 tokens" in errors
    code, _, errors = expunge(*words, "data.args.dataset_name=twits", "task_name=x")
    assert code == 2 and "did you mean 'twist'" in errors
    code, _, errors = expunge(
        *words, "data.args.dataset_name=twist", "task_name=x", "trainer.args.evaluate.losses=[tests]"
    )
    assert code == 2 and "trainer.args.evaluate.losses[0]: no set named 'tests'; did you mean 'test'?" in errors
    code, _, errors = expunge(*words, "data.args.dataset_name=twist", "task_name=x", "trainer.args.report_to=wandb")
    assert code == 2 and "trainer.args.report_to: wandb is not installed" in errors

    look = (
        "inspect",
        "path",
        "benchmark=stories",
        *DATA,
        *names,
        "--rows",
        "test",
        "--compare-with",
        "twist",
        "--n",
        "4",
    )
    both = ("--model", "saves/train/recovered", "--full", "saves/train/base")
    code, out, errors = expunge(*look, *both, "--out", "looked")
    assert code == 0 and "loss, test" in out and "loss, twist" in out, errors


class MadeUpTraining(Job):
    """A training that is only shown."""

    kind = "train"


def test_a_running_job_shows_tokens_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.StringIO()
    job = MadeUpTraining(label="x", estimate=Estimate(tokens=8000))
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    view = display.Display([PlannedJob(job, "missing", 1.0)], Console(file=output, width=200))
    view.tell(JobEvent(job, "start"))
    now[0] = 40.0
    view.tell(JobEvent(job, "progress", 1, 4))
    assert output.getvalue() == "train x: 1/4, about 2m 00s left, ~50 tokens/s\n"
