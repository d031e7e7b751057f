"""Config files: a copy of a shipped file is the same, and every kind of file is read by the same rules."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from expunge.cli.compose import CONF, check, compose, options, single_tree, study_tree
from expunge.core.errors import ConfigError
from expunge.pipelines.study.single_config import SingleJob, config_text
from expunge.pipelines.study.task_config import decode_task

Run = Callable[..., tuple[int, str, str]]

GIVEN = {  # what a study cannot know
    "custom": ["forget=rows.csv"],
    "semeval_tiny": ["data.args.mmlu=mmlu"],
    "stories_real": ["stories.source=stories"],
    "stories_30m": ["stories.source=stories"],
    "erase_people": ["forget=forget.csv", "retain=retain.csv"],
    "lume_smollm2": ["data.args.mmlu=mmlu"],
}
SINGLE = ["task_name=x", "data_split=News"]


def copied(group: str, name: str, folder: Path) -> Path:
    path = folder / "other" / "of mine (1).yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text((CONF / group / f"{name}.yaml").read_text())
    return path


@pytest.mark.parametrize("name", options("study"))
def test_a_copied_study_is_the_same_study(name: str, tmp_path: Path) -> None:
    words = GIVEN.get(name, [])
    mine = compose("run", [f"study={copied('study', name, tmp_path)}", *words])
    assert mine.tree == study_tree([f"study={name}", *words])
    assert not mine.notes


@pytest.mark.parametrize("name", options("experiment"))
def test_a_copied_experiment_is_the_same_experiment(name: str, tmp_path: Path) -> None:
    for mode in ("train", "unlearn", "eval"):
        mine = compose(mode, [f"experiment={copied('experiment', name, tmp_path)}", *SINGLE])
        assert mine.tree == compose(mode, [f"experiment={name}", *SINGLE]).tree


@pytest.mark.parametrize("name", options("model"))
def test_a_copied_model_is_the_same_model(name: str, tmp_path: Path) -> None:
    path = copied("model", name, tmp_path)
    assert compose("eval", [f"model={path}", *SINGLE]).tree == compose("eval", [f"model={name}", *SINGLE]).tree


def test_a_copied_study_plans_the_same_jobs(here: Path, tofu_source: Path, expunge: Run) -> None:
    path = copied("study", "tofu_tiny", here)

    def keys(study: str) -> list[str]:
        code, out, errors = expunge("plan", f"study={study}", f"data.root={tofu_source}", "--json")
        assert code == 0, errors
        return [job["key"] for job in json.loads(out)]

    assert keys(str(path)) == keys("tofu_tiny")


def test_files_of_every_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my model.yaml").write_text("defaults: [llama-2m]\ninit_seed: 3\n")
    Path("base.yaml").write_text("benchmark: world\ntrainer: {args: {max_steps: 7}}\n")
    Path("mine.yaml").write_text(
        "defaults: [base, override /trainer: NPO, override /model: my model.yaml]\nforget_split: ${train_split}\n"
    )
    Path("npo.yaml").write_text("handler: NPO\nmethod_args: {beta: 0.7}\nargs: {weight_decay: 0.5}\n")
    tree, notes = single_tree("unlearn", ["experiment=mine.yaml", "task_name=x", "train_split=half"])
    assert any("train_split has no effect" in note for note in notes)
    assert (tree["model"]["preset"], tree["model"]["init_seed"]) == ("llama-2m", 3)
    assert (tree["trainer"]["handler"], tree["trainer"]["args"]["max_steps"]) == ("NPO", 7)
    assert tree["forget_split"] == "half"
    tree, _ = single_tree("unlearn", ["experiment=mine.yaml", "task_name=x", "trainer=npo.yaml", "model=llama-1m"])
    assert (tree["trainer"]["method_args"]["beta"], tree["trainer"]["args"]["weight_decay"]) == (0.7, 0.5)
    assert tree["model"]["preset"] == "llama-1m"


def test_a_word_wins_over_the_method_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("trainer: {handler: NPO, args: {max_steps: 7}, method_args: {beta: 0.5}}\n")
    words = [f"experiment={path}", "task_name=x"]
    assert single_tree("unlearn", words)[0]["trainer"]["method_args"]["beta"] == 0.5
    trainer = single_tree("unlearn", [*words, "trainer=GradDiff"])[0]["trainer"]
    assert (trainer["handler"], trainer["args"]["max_steps"]) == ("GradDiff", 7)
    assert "beta" not in trainer["method_args"]


def test_a_word_wins_over_the_model_of_a_file(tmp_path: Path) -> None:
    """Before, a file's folder or hub id was loaded in silence although the words named another model."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "benchmark: world\nmethods: [NPO]\n"
        "model: {model_args: {pretrained_model_name_or_path: gpt2, revision: old, dtype: bfloat16}}\n"
    )
    file = study_tree([f"study={path}"])["model"]["model_args"]
    assert (file["pretrained_model_name_or_path"], file["revision"]) == ("gpt2", "old")
    args = study_tree([f"study={path}", "model=phi-1_5"])["model"]["model_args"]
    assert (args["pretrained_model_name_or_path"], args["revision"]) == ("microsoft/phi-1_5", None)
    assert args["dtype"] == "bfloat16"
    model = study_tree([f"study={path}", "model=llama-64k"])["model"]
    assert (model["preset"], model["model_args"]["pretrained_model_name_or_path"]) == ("llama-64k", None)


def test_an_experiment_that_selects_a_model_keeps_its_own_weights() -> None:
    """As in OpenUnlearning: the word selects the settings of a model, and the experiment names the target model."""
    words = ["experiment=unlearn/muse/default", "task_name=t", "data_split=News", "trainer=GradDiff"]
    for model in ((), ("model=Llama-2-7b-hf",), ("model=phi-1_5",)):
        args = single_tree("unlearn", [*words, *model])[0]["model"]["model_args"]
        assert args["pretrained_model_name_or_path"] == "muse-bench/MUSE-News_target"


def test_a_written_config_runs_again_as_it_is(here: Path, tofu_source: Path, expunge: Run) -> None:
    words = (
        "train", "experiment=finetune/tofu/default", "model=llama-64k", "task_name=full", f"data.root={tofu_source}",
        "trainer.args.max_steps=1", "trainer.args.per_device_train_batch_size=2",
        "model.template_args.user_start_tag=Ask ${data.root} ", "trainer.args.optim=adamw_torch",
        "trainer.args.eval_strategy=no",
    )  # fmt: skip
    code, _, errors = expunge(*words)
    assert code == 0, errors
    config = here / "saves/finetune/full/config.yaml"
    mark = (here / "saves/finetune/full/.expunge-key").read_text()
    written = yaml.safe_load(config.read_text())
    assert written["model"]["template_args"]["user_start_tag"] == "Ask \\${data.root} "
    code, _, errors = expunge("train", "experiment=saves/finetune/full/config.yaml")
    assert code == 0, errors
    assert "has no effect" not in errors
    code, _, errors = expunge("train", f"experiment={config}", "task_name=again")
    assert code == 0, errors
    assert (here / "saves/finetune/again/.expunge-key").read_text() == mark
    code, _, errors = expunge("unlearn", f"experiment={config}", "task_name=x")
    assert code == 2 and "this file is for `expunge train`" in errors


def test_a_written_config_has_no_notes_on_settings_that_nobody_chose(tmp_path: Path) -> None:
    words = ["benchmark=semeval", "data.root=rows", "model=llama-64k", "task_name=x"]
    single = decode_task(SingleJob, single_tree("eval", words)[0])
    path = tmp_path / "config.yaml"
    path.write_text(config_text(single))
    assert compose("eval", [f"experiment={path}"]).notes == ()
    (note,) = compose("eval", [f"experiment={path}", "trainer.args.learning_rate=1"]).notes
    assert note == "trainer.args.learning_rate has no effect: `expunge eval` trains nothing"
    path.write_text("benchmark: world\ndata_split: News\ntask_name: x\n")
    (note,) = compose("eval", [f"experiment={path}"]).notes
    assert note == "data_split has no effect: this benchmark has no splits"


def test_a_config_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    old: dict[str, Any] = {
        "benchmark": "world",
        "eval": {"rows": {"part": "report", "share": 0.5, "seed": 1}},
        "template_args": {"max_length": 99},
        "trainer": {"handler": "NPO", "args": {"head_chunk": 8, "loss_limit": 9.0, "step": "sam"}},
    }
    path.write_text(yaml.safe_dump(old))
    tree, notes = single_tree("unlearn", [f"experiment={path}", "task_name=x"])
    assert tree["model"]["template_args"]["max_length"] == 99
    args = tree["trainer"]["args"]
    assert (args["logits_chunk_size"], args["max_loss"], args["grad_transform"]) == (8, 9.0, "sam")
    assert (tree["eval"]["split"], tree["eval"]["split_seed"]) == ("report", 1)
    assert "trainer.args.head_chunk is now trainer.args.logits_chunk_size; the old name works for this release" in notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("benchmrk: world\n", r"mine.yaml: benchmrk: unknown key; did you mean 'benchmark'"),
        (
            "train: {learning_rat: 1}\n",
            r"mine.yaml: train.learning_rat: unknown key; did you mean 'train.learning_rate'",
        ),
        ("methods: {trainer: NPO}\n", r"methods: expected a list, got \{'trainer': 'NPO'\}"),
        ("train: [1]\n", r"train: expected a group of keys, got \[1\]"),
        ("name: a\nname: b\n", r"line 2: the key 'name' stands twice"),
        ("defaults: [override /modl: x]\n", r"defaults: no group 'modl'; did you mean 'model'"),
        ("defaults: [override /model: llama-3m]\n", r"model: no model named 'llama-3m'; did you mean"),
        ("defaults: [quikstart]\n", r"study: no study named 'quikstart'; did you mean 'quickstart'"),
        ("defaults: [mine]\n", r"defaults: mine includes itself"),
        ("defaults: 3\n", r"defaults: expected a list"),
        ("benchmark: ${nothing}\n", r"benchmark: \$\{nothing\} refers to no key"),
        ("benchmark: ${oc.env:NO_SUCH_THING}\n", r"reads the environment, which is off; pass --allow-env"),
        ("benchmark: ???\n", r"benchmark: missing; give benchmark="),
    ],
)
def test_a_wrong_file_names_file_and_key(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        study_tree([f"study={path}"])


def test_groups_of_other_projects_are_named_as_without_effect(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("defaults:\n- override /eval: tofu\n- override /trainer: NPO\nbenchmark: world\n")
    notes = compose("unlearn", [f"experiment={path}", "task_name=x"]).notes
    assert any("override /eval has no effect" in note for note in notes)


def test_a_model_of_ones_own_takes_no_settings_of_the_default_model(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("benchmark: world\nmodel: {preset: llama-64k}\n")
    tree = compose("train", [f"experiment={path}", "task_name=x"]).tree
    assert tree["model"]["preset"] == "llama-64k"
    assert tree["model"]["model_args"]["pretrained_model_name_or_path"] is None


def test_settings_without_effect_are_named() -> None:
    result = check("unlearn", ["model=gpt2", "trainer=NPO", "task_name=x", "model.preset=llama-1m", "benchmark=world",
                             "model.template_args.system_prompt=Hi", "train_split=retain"])  # fmt: skip
    keys = ("model.preset", "model.template_args.system_prompt", "train_split")
    assert [note.partition(" has no effect")[0] for note in result.notes] == list(keys)
    assert not check("run", ["study=quickstart"]).notes


IDLE = {  # the settings that decide, and a setting that they make idle
    "lr_scheduler_type=constant": "warmup_steps=5",
    "lr_scheduler_type=constant checkpoint.steps=2": "warmup_epochs=1",
    "lr_scheduler_type=linear warmup_epochs=1": "warmup_steps=5",
    "max_steps=7": "num_train_epochs=3",
    "optim=sgd": "adam_beta1=0.5",
    "optim=torch.optim.NAdam": "adam_beta2=0.5",
    "optim=lion_32bit": "adam_epsilon=1e-6",
    "reference=exact": "reference_topk=9",
    "evaluate.at_start=true": "evaluate.rows=9",
    "evaluate.steps=5": "evaluate.rule.floor=0.5",
    "evaluate.steps=5 evaluate.panel=full": "evaluate.rows=9",
    "evaluate.every=1": "evaluate.generate_every=2",
    "checkpoint.steps=2": "checkpoint.every_s=60",
}
ACTIVE = {
    "lr_scheduler_type=constant_with_warmup": "warmup_steps=5",
    "max_steps=-1": "num_train_epochs=3",
    "optim=lion_32bit": "adam_beta1=0.5",
    "optim=adamw_torch_fused": "adam_epsilon=1e-6",
    "reference=topk": "reference_topk=9",
    "evaluate.steps=5": "evaluate.rows=9",
    "evaluate.steps=5 evaluate.keep=best": "evaluate.rule.floor=0.5",
    "checkpoint.steps=null": "checkpoint.every_s=60",
}


@pytest.mark.parametrize(("deciding", "word", "idle"), [
    *((deciding, word, True) for deciding, word in IDLE.items()),
    *((deciding, word, False) for deciding, word in ACTIVE.items()),
])  # fmt: skip
def test_training_settings_that_another_one_makes_idle_are_named(deciding: str, word: str, idle: bool) -> None:
    words = [*deciding.split(), word]
    key = word.partition("=")[0]
    places = {"unlearn": (["trainer=NPO", "task_name=x", "benchmark=world"], "trainer.args"),
              "run": (["study=quickstart"], "unlearn")}  # fmt: skip
    for mode, (base, section) in places.items():
        own = {f"{section}.{w.partition('=')[0]}": w for w in words}
        notes = compose(mode, [*base, *(f"{section}.{w}" for w in own.values())]).notes
        named = [note.partition(" has no effect: ")[0] for note in notes if " has no effect: " in note]
        assert named == ([f"{section}.{key}"] if idle else [])


def test_a_setting_that_is_idle_in_some_runs_only_has_no_note() -> None:
    words = ["study=quickstart", "unlearn.lr_scheduler_type=constant", "unlearn.warmup_steps=5"]
    assert compose("run", words).notes
    assert not compose("run", [*words, "grid={unlearn.lr_scheduler_type: [linear, constant]}"]).notes


def test_methods_may_be_names() -> None:
    from expunge.pipelines.study.config import decode_study

    study = decode_study(study_tree(["study=quickstart", "methods=NPO,SimNPO"]))
    assert [entry.trainer for entry in study.methods] == ["NPO", "SimNPO"]


def test_a_folder_or_a_hub_id_is_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for source in (str(folder), "some-one/their-model"):
        if source == str(folder):
            with pytest.raises(ConfigError, match=r"model: no model named '.*mine'; this folder has no config\.json"):
                study_tree(["study=quickstart", f"model={source}"])
            (folder / "config.json").write_text("{}")
        model = study_tree(["study=quickstart", f"model={source}"])["model"]
        assert model["model_args"]["pretrained_model_name_or_path"] == source
        assert model["preset"] is None and model["template_args"]["apply_chat_template"] is None  # its own template
    with pytest.raises(ConfigError, match="there is no such folder"):
        study_tree(["study=quickstart", f"model={folder}/absent"])
