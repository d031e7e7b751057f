"""A word that names another benchmark than the experiment: its data settings are left out, its training stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from expunge.benchmarks import benchmarks
from expunge.benchmarks.api import BenchmarkConfig
from expunge.cli.compose import check, compose
from expunge.core.errors import ConfigError

TOFU, MUSE = "experiment=unlearn/tofu/default", "experiment=unlearn/muse/default"
TOKENIZER, SOURCE = (f"model.{kind}.pretrained_model_name_or_path" for kind in ("tokenizer_args", "model_args"))


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    rows = tmp_path / "rows.csv"
    rows.write_text("question,answer\nWho?,Ann.\nWhere?,Here.\n")
    return ["benchmark=custom", f"forget={rows}", "task_name=t"]


@pytest.mark.parametrize("experiment", ["tofu/default", "tofu/idk", "muse/default", "wmdp/default"])
def test_rows_of_your_own_in_an_experiment(experiment: str, own: list[str]) -> None:
    checked = check("unlearn", [f"experiment=unlearn/{experiment}", *own, f"{SOURCE}=some/model"])
    assert [checked.tree[f"{side}_split"] for side in ("forget", "retain", "holdout", "data")] == [None] * 4
    assert checked.tree["data"]["args"] == {}
    assert checked.tree["trainer"]["args"]["optim"] == "paged_adamw_32bit"  # the experiment's
    assert any(note.startswith("benchmark=custom: the settings of ") for note in checked.notes)


def test_a_study_with_rows_of_your_own(own: list[str]) -> None:
    composed = compose("run", ["study=tofu_tiny", *own[:2]])
    assert composed.tree["forget_split"] is None
    assert any("data are left out: forget_split=forget10" in note for note in composed.notes)


def test_the_words_of_the_command_stay(own: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"forget_split=forget10: .* leave it out: forget=FILE"):
        check("unlearn", [TOFU, *own, "forget_split=forget10"])
    tree = compose("unlearn", [TOFU, "benchmark=muse", "data_split=Books", "task_name=t"]).tree
    assert (tree["data_split"], tree["forget_split"], tree["holdout_split"]) == ("Books", None, None)


def test_the_same_benchmark_changes_nothing() -> None:
    both = [compose("unlearn", [TOFU, *words, "task_name=t"]) for words in ([], ["benchmark=tofu"])]
    assert both[0] == both[1]


def test_a_start_model_that_depends_on_the_data_is_asked_for(own: list[str]) -> None:
    with pytest.raises(ConfigError, match=rf"{SOURCE}: \${{data_split}} has no value; give .* or {SOURCE}="):
        check("unlearn", [MUSE, *own])


def test_a_folder_is_read_with_its_own_tokenizer(tmp_path: Path) -> None:
    words = [MUSE, "task_name=t", f"{SOURCE}={tmp_path}"]
    assert compose("unlearn", words).tree["model"]["tokenizer_args"]["pretrained_model_name_or_path"] is not None
    (tmp_path / "tokenizer.json").touch()
    assert compose("unlearn", words).tree["model"]["tokenizer_args"]["pretrained_model_name_or_path"] is None
    named = compose("unlearn", [*words, f"{TOKENIZER}=a/b"]).tree
    assert named["model"]["tokenizer_args"]["pretrained_model_name_or_path"] == "a/b"


@pytest.mark.parametrize("name", sorted(set(benchmarks()) - {"custom"}))
@pytest.mark.parametrize("side", ["forget", "retain"])
def test_a_file_of_rows_is_never_ignored(name: str, side: str) -> None:
    with pytest.raises(ConfigError, match=f"{side}=rows.csv: the benchmark .* benchmark=custom, which reads such"):
        benchmarks()[name].make(BenchmarkConfig(**{side: "rows.csv"}))  # type: ignore[arg-type]  # a text
