"""The shipped experiments of MUSE, WMDP, MMLU and lm-eval: each composes, and is planned on a folder of the schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expunge.cli.compose import single_tree
from expunge.models.build import train_tokenizer
from expunge.pipelines.study.single import prepare
from expunge.pipelines.study.single_config import SingleJob
from expunge.pipelines.study.task_config import decode_task

# experiment -> (mode, batch, accumulation, scheduler, what else must hold)
TRAINING = {
    "finetune/muse/default": ("train", 8, 4, "News", "full"),
    "unlearn/muse/default": ("unlearn", 4, 8, "News", "forget"),
    "unlearn/muse/scalability": ("unlearn", 4, 8, "News", "forget_4"),
    "unlearn/muse/sustainability": ("unlearn", 4, 8, "News", "forget_4"),
    "unlearn/muse/sustainabilty": ("unlearn", 4, 8, "News", "forget_4"),
    "unlearn/wmdp/default": ("unlearn", 1, 16, "cyber", None),
}
SCRATCH = ("model=llama-64k", "model.tokenizer_args.pretrained_model_name_or_path=null")


def composed(mode: str, experiment: str, *words: str) -> tuple[dict[str, Any], SingleJob]:
    tree, _ = single_tree(mode, [f"experiment={experiment}", "task_name=x", *words])
    return tree, decode_task(SingleJob, tree)


@pytest.mark.parametrize("experiment", TRAINING)
def test_training_presets_compose(experiment: str) -> None:
    mode, batch, accumulation, part, split = TRAINING[experiment]
    _, single = composed(mode, experiment)
    args = single.trainer.args
    assert (args["per_device_train_batch_size"], args["gradient_accumulation_steps"]) == (batch, accumulation)
    assert (args["lr_scheduler_type"], args["weight_decay"]) == (
        ("linear", 0.01) if mode == "train" else ("constant", 0)
    )
    assert single.data_split == part
    assert (single.train_split if mode == "train" else single.forget_split) == split
    if split:
        assert args["num_train_epochs"] == 10
    else:
        assert (args["max_steps"], args["learning_rate"], single.trainer.handler) == (80, 5e-5, "RMU")


def test_the_target_model_follows_the_part(tmp_path: Path) -> None:
    _, single = composed("unlearn", "unlearn/muse/default", "data_split=Books", "trainer=NPO")
    assert single.model.source == "muse-bench/MUSE-Books_target"
    assert single.trainer.handler == "NPO"
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    for mode, words in (("unlearn", ["trainer=NPO"]), ("eval", [])):
        for model in (str(tmp_path), "org/mine"):  # the user's own; a shipped name keeps the experiment's weights
            named = composed(mode, f"{mode}/muse/default", f"model={model}", *words)[1].model
            assert (named.source, named.tokenizer_args.pretrained_model_name_or_path) == (model, None)


def test_series_of_the_field_names() -> None:
    assert composed("unlearn", "unlearn/muse/scalability")[1].data.args == {"series": "scal"}
    assert composed("unlearn", "unlearn/muse/scalability")[1].trainer.args["anchor"] == "forget"
    assert composed("unlearn", "unlearn/muse/sustainabilty")[1].data.args == {"series": "sust"}


@pytest.mark.parametrize("experiment", [name for name in TRAINING if "muse" in name])
def test_muse_presets_are_planned(experiment: str, muse_folder: Path, here: Path) -> None:
    words = [*SCRATCH, "model.model_args.pretrained_model_name_or_path=null", f"data.root={muse_folder}"]
    prepared = prepare(composed(TRAINING[experiment][0], experiment, *words)[1])
    assert prepared.model is not None and prepared.model.estimate.tokens > 0
    assert prepared.eval_file == "MUSE_EVAL.json"


def test_eval_presets_are_planned(muse_folder: Path, wmdp_folder: Path, here: Path) -> None:
    (here / "model").mkdir()
    (here / "model" / "config.json").write_text(
        '{"model_type": "mamba", "vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1}'
    )
    (here / "model" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    train_tokenizer(["a b"], 300, max_length=64).save_pretrained(here / "model")
    inputs = "model.model_args.pretrained_model_name_or_path=model"
    for experiment, root in (
        ("eval/muse/default", muse_folder),
        ("eval/wmdp/default", wmdp_folder),
        ("eval/mmlu/default", wmdp_folder / "mmlu"),
    ):
        words = ["data.args.mmlu=null"] if "wmdp" in experiment else []
        prepared = prepare(composed("eval", experiment, "model=llama-64k", inputs, f"data.root={root}", *words)[1])
        assert prepared.metrics is not None and prepared.model is None
    requests = [f"data.root={wmdp_folder}", f"data.args.mmlu={wmdp_folder / 'mmlu'}"]
    prepared = prepare(composed("eval", "eval/wmdp/default", "model=llama-64k", inputs, *requests)[1])
    assert prepared.records is not None and "mmlu_anatomy.tokens.parquet" in prepared.records.parents


def test_overrides_of_the_field_are_translated() -> None:
    harness = {"batch_size": 4, "num_fewshot": 2, "limit": 50}
    words = [f"eval.lm_eval.simple_evaluate_args.{name}={value}" for name, value in harness.items()]
    words += ["task_name=x", "eval.muse.data_split=Books"]
    tree, notes = single_tree("eval", ["experiment=eval/muse/default", *words, "eval.muse.overwrite=true"])
    assert tree["data_split"] == "Books" and harness.items() <= tree["eval"]["lm_eval"].items()
    assert any("eval.muse.overwrite has no effect" in note for note in notes)
