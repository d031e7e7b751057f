"""OpenUnlearning's experiments and methods, composed here and compared with that project's own settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.interop.open_unlearning_commands import TWIN, judged

from expunge.cli.compose import check, single_tree
from expunge.core.errors import ConfigError
from expunge.interop.open_unlearning.differences import DIFFERENCES, difference_of
from expunge.interop.open_unlearning.facts import facts

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "how-to" / "openunlearning.md"


def cases() -> Iterator[Any]:
    for entry in TWIN["experiments"]:
        for method, own in entry["methods"].items():
            theirs = {**entry["facts"], **own}
            yield pytest.param(entry["mode"], entry["experiment"], method, theirs, id=f"{entry['experiment']}-{method}")


def unexplained(mode: str, experiment: str, method: str, theirs: dict[str, Any], *words: str) -> dict[str, Any]:
    choice = [f"trainer={method}"] if method else []
    tree, _ = single_tree(mode, [f"experiment={experiment}", "task_name=t", *choice, *words])
    ours = json.loads(json.dumps(facts(mode, tree, theirs.get("metrics", [[None, []]])[0][1])))
    handler = method or ours.get("handler", "")
    return {
        key: (ours.get(key), value)
        for key, value in theirs.items()
        if ours.get(key) != value and difference_of(key, (ours.get(key), value), experiment, handler) is None
    }


@pytest.mark.parametrize(("mode", "experiment", "method", "theirs"), list(cases()))
def test_an_experiment_has_their_settings(mode: str, experiment: str, method: str, theirs: dict[str, Any]) -> None:
    assert unexplained(mode, experiment, method, theirs) == {}


@pytest.mark.parametrize("model", TWIN["models"])
def test_a_model_has_their_template(model: str) -> None:
    assert unexplained("eval", "eval/tofu/default", "", TWIN["models"][model], f"model={model}") == {}


def test_a_setting_that_changes_is_found() -> None:
    entry = TWIN["experiments"][0]
    theirs = {**entry["facts"], **entry["methods"]["NPO"]}
    changed = unexplained("unlearn", "unlearn/tofu/default", "NPO", theirs, "trainer.args.weight_decay=0.02")
    assert changed == {"args.weight_decay": (0.02, 0.01)}


def test_every_difference_is_on_the_page() -> None:
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert [d.reason for d in DIFFERENCES if d.reason not in page] == []


def test_steps_and_warm_up_are_theirs() -> None:
    from expunge.core.decode import decode
    from expunge.training.config import TrainArgs

    tree, _ = single_tree("unlearn", ["experiment=unlearn/tofu/default", "task_name=t"])
    args = decode(TrainArgs, tree["trainer"]["args"], where="trainer.args")
    assert [(args.n_steps(n), args.warmup(n)) for n in (400, 200, 40)] == [(120, 12), (60, 6), (10, 1)]
    assert args.n_samples(400) == 120 * 32
    own, _ = single_tree(
        "unlearn", ["experiment=unlearn/tofu/default", "task_name=t", "trainer.args.whole_steps=false"]
    )
    assert decode(TrainArgs, own["trainer"]["args"], where="trainer.args").n_steps(400) == 125


PROFILE_KEYS = {
    ("model", "template_args", "compat"): "openunlearning",
    ("trainer", "args", "accumulation"): "mean_of_means",
    ("trainer", "args", "whole_steps"): True,
    ("trainer", "args", "group_by_length"): False,
    ("trainer", "method_args", "compat"): "openunlearning",
    ("eval", "compat"): "openunlearning",
}


def value_at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


@pytest.mark.parametrize("method", ["RMU", "UNDIAL", "PDU", "NPO", "CEU", "GradAscent"])
def test_the_profile_switches_every_form_on(method: str) -> None:
    words = ["experiment=unlearn/tofu/default", "task_name=t", f"trainer={method}"]
    tree, notes = single_tree("unlearn", [*words, "profile=openunlearning"])
    assert {path: value_at(tree, path) for path in PROFILE_KEYS} == PROFILE_KEYS
    assert tree["profile"] == "openunlearning"
    assert not any("by intention" in note for note in notes)
    _, notes = single_tree("unlearn", words)
    (line,) = [note for note in notes if "by intention" in note]
    assert "profile=openunlearning" in line
    assert (f"the loss of {method}" in line) == (method in ("RMU", "UNDIAL", "PDU"))


def test_words_win_over_the_profile_and_the_profile_over_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("benchmark: world\ntrainer: {handler: NPO, args: {whole_steps: false}}\ntask_name: t\n")
    tree, _ = single_tree("unlearn", [f"experiment={file}", "profile=openunlearning", "eval.compat=clean"])
    assert tree["trainer"]["args"]["whole_steps"] is True
    assert tree["eval"]["compat"] == "clean"
    file.write_text("profile: openunlearning\n" + file.read_text())
    tree, _ = single_tree("unlearn", [f"experiment={file}"])
    assert tree["trainer"]["args"]["whole_steps"] is False
    assert tree["trainer"]["args"]["accumulation"] == "mean_of_means"


def test_the_profile_of_a_study() -> None:
    tree = check("run", ["study=quickstart", "profile=openunlearning", "methods=[NPO,{trainer: ties}]"]).tree
    assert tree["train"]["whole_steps"] is tree["unlearn"]["whole_steps"] is True
    assert tree["eval"]["compat"] == "openunlearning"


def test_an_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no profile named 'openunlerning'; did you mean 'openunlearning'"):
        check("unlearn", ["experiment=unlearn/tofu/default", "task_name=t", "profile=openunlerning"])


SAVED = [
    ("unlearn", "unlearn/tofu/default", "trainer=SatImp"),
    ("unlearn", "unlearn/muse/scalability", "trainer=NPO"),
    ("unlearn", "unlearn/wmdp/default", "profile=openunlearning"),
    ("train", "finetune/tofu/default", "train_split=retain"),
    ("eval", "eval/muse/default", "data_split=Books"),
]


@pytest.mark.parametrize(("mode", "experiment", "word"), SAVED)
def test_a_written_config_runs_again_as_it_is(mode: str, experiment: str, word: str, tmp_path: Path) -> None:
    from expunge.pipelines.study.single_config import SingleJob, config_text
    from expunge.pipelines.study.task_config import decode_task

    job = decode_task(SingleJob, single_tree(mode, [f"experiment={experiment}", "task_name=t", word])[0])
    (tmp_path / "config.yaml").write_text(config_text(job))
    again = decode_task(SingleJob, single_tree(mode, [f"experiment={tmp_path}/config.yaml"])[0])
    assert config_text(again) == config_text(job)


@pytest.mark.slow
@pytest.mark.shared
def test_every_command_is_equal_or_names_its_reason(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.cli.compose._check_files", lambda task: None)  # their models are not here
    lines = (shared / "golden" / "openunlearning" / "commands.jsonl").read_text().splitlines()
    refused = set()
    for line in lines:
        argv = json.loads(line)["argv"]
        kind, display = judged(argv)
        assert kind != "unexplained", (argv, display)
        if kind == "refused":
            refused.add(display["message"])
    assert all("write" in text or "did you mean" in text for text in refused), refused
    assert len(refused) <= 3


COMMAND = [
    "src/train.py", "--config-name=unlearn.yaml", "experiment=unlearn/tofu/default.yaml", "trainer=NPO", "task_name=t",
    "model=Llama-3.2-3B-Instruct", "forget_split=forget05", "retain_split=retain95", "holdout_split=holdout05",
    "model.model_args.pretrained_model_name_or_path=open-unlearning/tofu_Llama-3.2-3B-Instruct_full",
    "trainer.args.per_device_train_batch_size=4", "trainer.args.gradient_checkpointing=true",
]  # fmt: skip


def test_a_command_has_their_settings() -> None:
    assert judged(COMMAND) == ("same", {})
    without = [word for word in COMMAND if not word.startswith("model.model_args")]
    names = [f"open-unlearning/tofu_Llama-3.2-{size}-Instruct_full" for size in ("3B", "1B")]
    assert judged(without) == ("different", {"model": (names[0], names[1])})


@pytest.mark.shared
def test_the_shared_settings_agree(shared: Path) -> None:
    """The twin of this file has the same facts as the settings composed from the project itself."""
    for case in json.loads((shared / "golden" / "openunlearning" / "effective.json").read_text()):
        if case["exp"] is None:
            continue  # a command without an experiment has no benchmark here
        theirs = {k: v for k, v in case["effective"].items() if not (k == "maxlen" and "wmdp" in case["exp"])}
        assert unexplained(case["mode"], case["exp"], case["trainer"] or "", theirs) == {}


def test_wmdp_is_evaluated_twice_at_any_number_of_steps() -> None:
    words = ["experiment=unlearn/wmdp/default", "trainer=RMU", "task_name=x"]
    for own, between in (((), (None, 40)), (("max_steps=150",), (None, 75)), (("max_steps=-1",), (5.0, None))):
        tree = single_tree("unlearn", [*words, *(f"trainer.args.{word}" for word in own)])[0]
        evaluate = tree["trainer"]["args"]["evaluate"]
        assert (evaluate["every"], evaluate["steps"]) == between
