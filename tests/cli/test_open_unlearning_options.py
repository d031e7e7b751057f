"""Options and commands around OpenUnlearning's experiments: Hydra's options, plans, differences and imports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from tests.cli.conftest import Run

from expunge.cli.compose import single_tree

TOFU = "experiment=unlearn/tofu/default"


def test_a_plan_of_a_single_job(here: Path, tofu_source: Path, expunge: Run) -> None:
    words = (
        "plan",
        "unlearn",
        TOFU,
        "trainer=NPO",
        "task_name=x",
        "model=llama-64k",
        f"data.root={tofu_source}",
        "--json",
    )
    code, out, errors = expunge(*words)
    assert code == 0, errors
    kinds = [job["kind"] for job in json.loads(out)]
    assert kinds[0] == "base" and {"unlearn", "metrics"} <= set(kinds)
    code, again, _ = expunge(*[word for word in words if word != "unlearn"])
    assert (code, json.loads(again)) == (0, json.loads(out))
    assert not (here / "saves").exists()


def test_the_difference_of_a_profile(here: Path, expunge: Run) -> None:
    code, out, errors = expunge("config", "unlearn", TOFU, "trainer=RMU", "task_name=x", "--diff", "openunlearning")
    assert code == 0, errors
    assert "trainer.method_args.compat: paper -> openunlearning" in out.splitlines()
    assert "trainer.args.accumulation: whole_step -> mean_of_means" in out.splitlines()
    assert "learning_rate" not in out
    assert expunge("config", "unlearn", TOFU, "trainer=RMU", "task_name=x", "--diff", "profile")[1] == out
    code, _, errors = expunge("config", "unlearn", TOFU, "task_name=x", "--diff", "openunlearnin")
    assert code == 2 and "did you mean 'openunlearning'" in errors


def test_options_of_hydra(here: Path, expunge: Run) -> None:
    code, out, errors = expunge("unlearn", TOFU, "task_name=x", "--cfg", "job")
    assert code == 0, errors
    assert yaml.safe_load(out)["trainer"]["args"]["num_train_epochs"] == 10
    code, _, errors = expunge("unlearn", TOFU, "task_name=x", "--cfg", "hydra")
    assert code == 2 and "only `--cfg job` is known" in errors
    code, _, errors = expunge("train", TOFU, "task_name=x", "--config-name=unlearn.yaml")
    assert code == 2 and "write expunge unlearn" in errors
    code, _, errors = expunge("unlearn", TOFU, "task_name=x", "--config-name=mine")
    assert code == 2 and "experiment=FILE.yaml" in errors
    (here / "conf" / "experiment").mkdir(parents=True)
    (here / "conf" / "experiment" / "mine.yaml").write_text("benchmark: world\ntrainer: {handler: NPO}\n")
    code, out, errors = expunge("unlearn", "experiment=mine", "task_name=x", "--config-dir", "conf", "--cfg", "job")
    assert code == 0, errors
    assert yaml.safe_load(out)["trainer"]["handler"] == "NPO"


FORK = {
    "experiment/unlearn/mine/default.yaml": """
defaults:
  - override /model: Small
  - override /trainer: Mine
  - override /data: unlearn
  - override /data/datasets@data.forget: TOFU_QA_forget
  - override /data/datasets@data.retain: TOFU_QA_retain
  - override /eval: tofu
forget_split: forget05
retain_split: retain95
data:
  anchor: forget
  forget: {TOFU_QA_forget: {args: {hf_args: {name: "${forget_split}"}}}}
eval: {tofu: {forget_split: "${forget_split}", overwrite: true}}
trainer: {args: {learning_rate: 2e-5, deepspeed: zero3.json}}
task_name: ???
""",
    "model/Small.yaml": "model_args: {pretrained_model_name_or_path: org/small, torch_dtype: bfloat16}\n"
    "template_args: {apply_chat_template: true}\n",
    "trainer/base.yaml": "handler: FinetuneTrainer\nargs: {eval_strategy: epoch, weight_decay: 0.0, report_to: none}\n",
    "trainer/Mine.yaml": "defaults: [base]\nhandler: NPO\nmethod_args: {beta: 0.2}\n",
}


@pytest.fixture
def fork(here: Path) -> Path:
    for name, text in FORK.items():
        (here / "fork" / "configs" / name).parent.mkdir(parents=True, exist_ok=True)
        (here / "fork" / "configs" / name).write_text(text)
    return here / "fork"


def test_an_experiment_of_a_fork_is_imported(fork: Path, expunge: Run) -> None:
    words = ("import", "openunlearning", str(fork), "--experiment", "unlearn/mine/default", "--out", "mine.yaml")
    code, _, errors = expunge(*words)
    assert code == 0, errors
    assert errors.count("not carried") == 1 and "accelerate launch" in errors
    tree, _ = single_tree("unlearn", ["experiment=mine.yaml", "task_name=x"])
    args = tree["trainer"]["args"]
    assert (tree["benchmark"], tree["forget_split"], tree["retain_split"]) == ("tofu", "forget05", "retain95")
    assert (tree["trainer"]["handler"], tree["trainer"]["method_args"]["beta"]) == ("NPO", 0.2)
    assert (args["learning_rate"], args["weight_decay"], args["whole_steps"]) == (2e-5, 0.0, True)
    assert (args["evaluate"]["every"], args["evaluate"]["panel"]) == (1.0, "full")
    model = tree["model"]["model_args"]
    assert (model["pretrained_model_name_or_path"], model["dtype"]) == ("org/small", "auto")
    code, _, errors = expunge(*words)
    assert code == 2 and "exists already" in errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("python", "src/train.py"), "leave out the words up to the script"),
        (("unlearn", "--resolve", TOFU), "for resolve, write --cfg job"),
        (("plan", "unlearn", "-m", TOFU), "this command shows one job"),
        (("unlearn", "-m", "-c", "job", TOFU, "trainer=NPO,PDU", "task_name=x"), "leave --multirun out"),
        (("unlearn", "-cn", "train", TOFU, "task_name=x"), "write expunge train"),
    ],
)
def test_further_options_of_hydra_are_answered(words: tuple[str, ...], message: str, expunge: Run) -> None:
    code, _, errors = expunge(*words)
    assert code == 2 and message in errors and "did you mean" not in errors


def test_all_experiments_of_a_fork(fork: Path, expunge: Run) -> None:
    code, _, errors = expunge("import", "openunlearning", str(fork / "configs"), "--out", "all")
    assert code == 0, errors
    assert (Path("all") / "unlearn" / "mine" / "default.yaml").is_file()
    code, _, errors = expunge(
        "import", "openunlearning", str(fork), "--experiment", "unlearn/mine/default", "--out", "x"
    )
    assert code == 2 and "--out: x: an experiment is a YAML file; name it x.yaml" in errors
    code, _, errors = expunge("import", "openunlearning", str(fork), "--experiment", "unlearn/min", "--out", "x.yaml")
    assert code == 2 and "did you mean 'unlearn/mine/default'" in errors


def test_a_job_with_the_profile_and_other_answers_from_a_file(here: Path, tofu_source: Path, expunge: Run) -> None:
    forget = [json.loads(line) for line in (tofu_source / "forget10.json").read_text().splitlines()]
    rows = [{"question": row["question"], "other": ["Nobody knows.", "In 1900."]} for row in forget]
    (here / "other.json").write_text(json.dumps(rows))
    code, _, errors = expunge(
        "unlearn", TOFU, "trainer=DPO", "task_name=x", "model=llama-64k", f"data.root={tofu_source}",
        "data.alternates=other.json", "data.alternate_key=other", "profile=openunlearning", "trainer.args.max_steps=1",
        "trainer.args.per_device_train_batch_size=2", "trainer.args.gradient_accumulation_steps=2",
        "trainer.args.eval_strategy=no", "eval.metrics=[privleak,extraction_strength]",
    )  # fmt: skip
    assert code == 0, errors
    results = json.loads((here / "saves" / "unlearn" / "x" / "evals" / "TOFU_SUMMARY.json").read_text())
    assert set(results) == {"privleak", "mia_min_k", "mia_min_k_forget", "mia_min_k_holdout", "extraction_strength"}
    assert results["privleak"] is not None  # there is no retain model: 0.5 stands for its AUC
    (file,) = (here / "saves" / "store").rglob("alternates.jsonl")
    assert [json.loads(line) for line in file.read_text().splitlines()] == [row["other"] for row in rows]


def test_a_missing_file_lists_no_parts_of_experiments(expunge: Run) -> None:
    code, _, errors = expunge("config", "unlearn", "experiment=saves/unlearn/x/config.yaml", "task_name=x")
    assert code == 2 and "no file saves/unlearn/x/config.yaml" in errors and "/_" not in errors


def test_settings_are_shown_without_a_name_of_the_job(expunge: Run, tmp_path: Path) -> None:
    for words in (["config", "unlearn", TOFU], ["unlearn", TOFU, "--cfg", "job"]):
        code, out, _ = expunge(*words)
        assert (code, "task_name: ???\n" in out) == (0, True)
    (tmp_path / "mine.yaml").write_text(out)
    code, _, errors = expunge("plan", "unlearn", f"experiment={tmp_path / 'mine.yaml'}")
    assert (code, "task_name: missing; give task_name=..." in errors) == (2, True)
    assert expunge("config", "unlearn", TOFU, "--diff", "openunlearning")[0] == 0


def test_a_configuration_without_an_experiment_is_refused(expunge: Run) -> None:
    code, _, errors = expunge("unlearn", "--config-name=unlearn.yaml", "trainer=NPO", "task_name=x")
    assert (code, "add experiment=unlearn/tofu/default, or benchmark=NAME" in errors) == (2, True)


def test_a_variable_of_the_environment_stands_before_the_command(expunge: Run) -> None:
    code, _, errors = expunge("unlearn", "CUDA_VISIBLE_DEVICES=0", TOFU, "task_name=x")
    assert (code, "CUDA_VISIBLE_DEVICES=... expunge unlearn" in errors) == (2, True)
