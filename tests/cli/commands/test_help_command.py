"""`expunge help KEY`, `expunge config`, and the documentation of every public config field."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import yaml

from expunge.cli.compose import options, study_tree
from expunge.cli.composition import Composition
from expunge.cli.config_files import method_settings
from expunge.cli.field_docs import config_classes, shipped_methods
from expunge.cli.setting_keys import all_keys
from expunge.methods import registry

Run = Callable[..., tuple[int, str, str]]

# Classes whose fields are still described in the class's docstring. No class is added here.
IN_THE_CLASS = {
    "Template", "StoriesStudy", "StoryJudge", "StoryProbe", "RuleJudge", "JudgeRule", "StoriesConfig", "StoryVariant",
}  # fmt: skip


def test_every_key_of_a_command_has_its_own_documentation() -> None:
    lacking = {info.defined.split()[0]: info.key for infos in all_keys().values() for info in infos if not info.doc}
    assert set(lacking) <= IN_THE_CLASS, lacking


def test_every_setting_of_a_benchmark_has_its_own_documentation() -> None:
    lacking = [f"{c.name}.{f.name}" for c in config_classes("benchmarks") for f in c.fields.values() if not f.doc]
    assert not lacking


def test_the_source_is_read_as_it_is_registered() -> None:
    """The names of methods are known without importing them; what is read must be what importing gives."""
    result = {name: spec for spec in registry().values() for name in (spec.name, *spec.aliases)}
    assert set(result) == set(shipped_methods()) == set(method_settings())
    for name, fields in shipped_methods().items():
        assert fields == set(result[name].cls.__dataclass_fields__), name


def test_a_key_and_its_group(expunge: Run) -> None:
    code, out, _ = expunge("help", "train.learning_rate")
    assert code == 0
    assert "type:    float" in out and "default: 1e-05" in out and "The peak learning rate." in out
    assert "read by: expunge run, plan" in out and "TrainArgs in training/config.py" in out
    code, out, _ = expunge("help", "launch")
    assert code == 0 and "launch.workers" in out
    code, out, _ = expunge("help", "methods.from")
    assert code == 0 and "methods[].from" in out
    code, out, err = expunge("help", "train.head_chunk")
    assert code == 0 and out.startswith("train.logits_chunk_size\n")
    assert err == "note: train.head_chunk is now train.logits_chunk_size; the old name works for this release\n"
    code, out, err = expunge("help", "lr")
    assert code == 0 and out.startswith("train.learning_rate\n") and err == "note: lr is called learning_rate here\n"
    code, out, _ = expunge("help", "data.args.holdout")
    assert code == 0 and "CustomArgs in benchmarks/custom.py" in out
    code, out, _ = expunge("help", "beta")
    assert code == 0 and "NPO in methods/npo.py" in out
    code, out, _ = expunge("help")
    assert code == 0 and "benchmark" in out and max(map(len, out.splitlines())) <= 80
    code, out, _ = expunge("help", "unlearn")
    assert code == 0 and "Training settings" in out and out.endswith("of this name: expunge unlearn --help\n")


def test_a_wrong_key_names_the_nearest(expunge: Run) -> None:
    code, _, errors = expunge("help", "train.learning_rat")
    assert code == 2 and "did you mean 'train.learning_rate'" in errors and len(errors.splitlines()) == 1


def test_help_of_a_command_and_of_a_listed_name(expunge: Run) -> None:
    code, out, _ = expunge("help", "erase")
    assert code == 0 and out.startswith("usage: expunge erase")
    code, out, _ = expunge("help", "NPO")
    assert code == 0 and out == expunge("list", "methods", "NPO")[1]
    code, _, errors = expunge("help", "simnpo")
    assert code == 2 and "did you mean 'SimNPO'" in errors and len(errors.splitlines()) == 1


def test_settings_are_printed_as_a_file_that_gives_them_again(here: Path, expunge: Run) -> None:
    code, out, errors = expunge("config", "run", "study=tofu_sweep", "data.root=a ${b}", "--docs")
    assert code == 0, errors
    assert "# Where examples come from." in out
    (here / "mine.yaml").write_text(out)
    assert study_tree(["study=mine.yaml"]) == study_tree(["study=tofu_sweep", "data.root=a ${b}"])
    words = ("trainer=NPO", "task_name=x", "model=gpt2", "trainer.args.max_steps=3")
    code, out, errors = expunge("config", "unlearn", *words)
    assert code == 0, errors
    assert yaml.safe_load(out)["trainer"]["method_args"]["beta"] == 0.1
    (here / "job.yaml").write_text(out)
    assert expunge("config", "unlearn", "experiment=job.yaml")[1] == out


@pytest.mark.parametrize("words", [("run", "study=quickstart"), ("unlearn", "trainer=NPO"), ("unlearn", "task_name=x")])
def test_settings_are_composed_once(words: tuple[str, ...], expunge: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = mock.Mock(side_effect=Composition.run)
    monkeypatch.setattr(Composition, "run", lambda self: runs(self))
    assert expunge("config", *words)[0] == 0
    assert runs.call_count == 1


QUICK = {
    "unknown method": (("unlearn", "trainer=NPOO"), "did you mean 'NPO'"),
    "unknown setting of a method": (("unlearn", "trainer=NPO", "trainer.method_args.bta=1", "task_name=x"), "beta"),
    "unknown key": (("train", "trainer.args.learning_rat=1", "task_name=x"), "learning_rate"),
    "wrong value": (("run", "study=quickstart", "train.learning_rate=fast"), "train.learning_rate"),
    "unknown method of a study": (("plan", "study=quickstart", "methods=[{trainer: NPOO}]"), "did you mean 'NPO'"),
    "unknown benchmark": (("run", "study=quickstart", "benchmark=tofoo"), "did you mean 'tofu'"),
    "no model folder": (
        ("eval", "task_name=x", "model.model_args.pretrained_model_name_or_path=./nothing"),
        "no folder ./nothing",
    ),
    "no file to forget": (("unlearn", "benchmark=custom", "forget=none.csv", "trainer=NPO", "task_name=x"), "none.csv"),
    "no file to erase": (("erase", "--model", "x", "--forget", "none.csv", "--out", "x"), "none.csv does not exist"),
    "several jobs": (("unlearn", "-m", "trainer=NPO,NPOO", "task_name=x"), "did you mean 'NPO'"),
}


@pytest.mark.parametrize("case", QUICK)
def test_a_wrong_word_is_reported_before_torch_is_imported(case: str) -> None:
    """Counted rather than timed: torch and transformers take seconds to import."""
    words, part = QUICK[case]
    code = (
        f"import sys; from expunge.cli.main import main\ncode = main({list(words)!r})\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'scipy', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy or code != 2 else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert part in done.stderr and "Traceback" not in done.stderr


def test_names_of_groups() -> None:
    assert "quickstart" in options("study") and "NPO" in options("trainer") and "gpt2" in options("model")


def test_a_number_of_the_results_leads_to_its_metric(expunge: Run) -> None:
    for words in (("help",), ("list", "metrics")):
        code, out, _ = expunge(*words, "forget_Q_A_Prob")
        assert code == 0
        assert out.startswith(
            "forget_Q_A_Prob: the metric probability on the rows forget_eval (answer)\n\nprobability\n"
        )
    for name, line in (
        ("retain_exact_memorization", "exact_memorization on the rows retain_eval (answer)"),
        ("mia_min_k", "attack_auc of mia_min_k_forget, mia_min_k_holdout"),
    ):
        assert line in " ".join(expunge("help", name)[1].split())
    code, _, errors = expunge("help", "forget_Q_A_Probs")
    assert code == 2 and "no key, command or name 'forget_Q_A_Probs'" in errors


def test_a_key_does_not_hide_a_listed_name(expunge: Run) -> None:
    code, out, _ = expunge("help", "relearn")
    assert code == 0 and "meta.relearn" in out and "expunge list audits relearn" in out
    code, out, _ = expunge("help", "quantize")
    assert code == 0 and "expunge list methods quantize" in out and "expunge list audits quantize" in out
    assert "In the list of" not in expunge("help", "train.learning_rate")[1]
