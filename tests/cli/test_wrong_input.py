"""Wrong inputs: exit code 2, one line that names the key or the file and row, no traceback, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

UNLEARN = ("unlearn", "experiment=unlearn/tofu/default", "task_name=x", "model=llama-64k")

# name: (words of the command, what the line must say)
PLAIN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "unknown study": (("run", "study=quikstart"), ("study", "'quikstart'", "did you mean 'quickstart'")),
    "no study": (("run",), ("study: missing", "quickstart")),
    "not key=value": (("run", "quickstart"), ("'quickstart'", "key=value")),
    "study file that is not there": (("plan", "study=mine.yaml"), ("study: no file mine.yaml",)),
    "unknown key": (
        ("run", "study=quickstart", "train.learning_rat=1e-3"),
        ("train.learning_rat", "did you mean 'train.learning_rate'"),
    ),
    "wrong type": (("run", "study=quickstart", "train.learning_rate=fast"), ("train.learning_rate", "'fast'")),
    "out of range": (
        ("run", "study=quickstart", "train.per_device_train_batch_size=0"),
        ("train.per_device_train_batch_size", "at least 1"),
    ),
    "usual name in a group": (
        ("run", "study=quickstart", "train.lr=1"),
        ("train.lr", "did you mean 'train.learning_rate'"),
    ),
    "unknown model": (("run", "study=quickstart", "model=llama1m"), ("model", "did you mean 'llama-1m'")),
    "unknown preset": (("run", "study=quickstart", "model.preset=llama-2"), ("model", "llama-2m")),
    "unknown method": ((*UNLEARN, "trainer=NPOO"), ("trainer", "did you mean 'NPO'")),
    "unknown method in a study": (
        ("run", "study=quickstart", "methods=[{trainer: GradAscnt}]"),
        ("methods[0]", "did you mean 'GradAscent'"),
    ),
    "unknown method setting": (
        (*UNLEARN, "trainer=NPO", "trainer.method_args.bta=1"),
        ("trainer.method_args.bta", "did you mean 'trainer.method_args.beta'"),
    ),
    "method setting out of range": (
        (*UNLEARN, "trainer=NPO", "trainer.method_args.beta=0"),
        ("trainer.method_args.beta", "> 0"),
    ),
    "unknown retain loss": (
        (*UNLEARN, "trainer=NPO", "trainer.method_args.retain_loss_type=L2"),
        ("trainer.method_args.retain_loss_type", "'L2'", "NLL"),
    ),
    "a method that does not unlearn": ((*UNLEARN, "trainer=finetune"), ("trainer=finetune", "expunge train")),
    "results of nothing": (("results",), ("study: missing", "no study has run here")),
    "results of a study that has not run": (("results", "study=quickstart"), ("quickstart has no results in",)),
    "an empty query": (("results", "--query", " "), ("--query: is empty",)),
    "unknown split": ((*UNLEARN, "forget_split=forgte10"), ("forget_split=forgte10", "did you mean 'forget10'")),
    "splits that do not fit": (
        (*UNLEARN, "forget_split=forget05", "retain_split=retain90"),
        ("forget_split=forget05", "retain95"),
    ),
    "a study in a single job": (("eval", "study=quickstart", "task_name=x"), ("study: is for `expunge run`",)),
    "a trainer in a study": (("run", "study=quickstart", "trainer=NPO"), ("trainer: is for", "`methods`")),
    "an experiment in a study": (
        ("plan", "study=quickstart", "+experiment=unlearn/tofu/default"),
        ("experiment: is for", "`methods`"),
    ),
    "no task name": (("unlearn", "experiment=unlearn/tofu/default"), ("task_name: missing",)),
    "unknown experiment": (("eval", "experiment=eval/tofu/defalt"), ("experiment", "'eval/tofu/default'")),
    "no model folder": (
        ("eval", "task_name=x", "model.model_args.pretrained_model_name_or_path=saves/train/none"),
        ("pretrained_model_name_or_path", "saves/train/none"),
    ),
    "no data folder": ((*UNLEARN, "data.root=./nowhere"), ("nowhere",)),
    "no retain log": ((*UNLEARN, "data.root=data", "retain_logs_path=none.json"), ("retain_logs_path", "none.json")),
    "unknown name in a list": (("methods", "NPOX"), ("'NPOX'", "did you mean 'NPO'")),
    "two methods of one label": (
        ("run", "study=quickstart", "methods=[{trainer: NPO}, {trainer: NPO}]"),
        ("methods", "'NPO'", "label"),
    ),
    "seeds twice": (("run", "study=quickstart", "seeds.train=[0, 0]"), ("seeds.train", "different")),
}


def check(here: Path, result: tuple[int, str, str], parts: tuple[str, ...]) -> None:
    """The four promises of a user error."""
    code, _, output = result
    assert code == 2, output
    lines = [line for line in output.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, output
    for part in parts:
        assert part in lines[0], output
    assert "Traceback" not in output
    assert not (here / "saves").exists()


@pytest.mark.parametrize("case", PLAIN)
def test_one_line_and_nothing_written(
    case: str, here: Path, tofu_source: Path, expunge: Callable[..., tuple[int, str, str]]
) -> None:
    shutil.copytree(tofu_source, here / "data")
    words, parts = PLAIN[case]
    check(here, expunge(*words), parts)


def edit(folder: Path, name: str, row: int, change: Callable[[dict[str, object]], object]) -> None:
    """Change one row of a file."""
    lines = (folder / name).read_text().splitlines()
    content = change(json.loads(lines[row]))
    lines[row] = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text("\n".join(lines) + "\n")


DATA: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "a line that is not JSON": (
        lambda d: edit(d, "forget10.json", 2, lambda r: '{"question": "Who'),
        ("forget10.json", "line 3", "not JSON"),
    ),
    "a missing column": (
        lambda d: edit(d, "forget10.json", 1, lambda r: {"question": r["question"], "anwser": r["answer"]}),
        ("forget10.json", "row 1", "answer", "anwser"),
    ),
    "an empty answer": (
        lambda d: edit(d, "retain90.json", 3, lambda r: {**r, "answer": "  "}),
        ("retain90.json", "row 3", "answer"),
    ),
    "an answer that is a number": (
        lambda d: edit(d, "full.json", 0, lambda r: {**r, "answer": 7}),
        ("full.json", "row 0", "answer"),
    ),
    "a missing file": (lambda d: (d / "retain_perturbed.json").unlink(), ("retain_perturbed",)),
    "rows that do not add up": (
        lambda d: (d / "retain90.json").write_text(
            "\n".join((d / "retain90.json").read_text().splitlines()[:-1]) + "\n"
        ),
        ("retain90.json", "do not add up"),
    ),
    "another order of the perturbed rows": (
        lambda d: edit(d, "forget10_perturbed.json", 0, lambda r: {**r, "question": "Who?"}),
        ("forget10_perturbed.json", "row 0", "question"),
    ),
}


@pytest.mark.parametrize("case", DATA)
def test_wrong_data_names_file_and_row(
    case: str, here: Path, tofu_source: Path, expunge: Callable[..., tuple[int, str, str]]
) -> None:
    shutil.copytree(tofu_source, here / "data")
    spoil, parts = DATA[case]
    spoil(here / "data")
    check(here, expunge(*UNLEARN, "data.root=data"), parts)


def test_a_model_folder_without_safetensors(here: Path, expunge: Callable[..., tuple[int, str, str]]) -> None:
    folder = here / "models" / "old"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    words = ("eval", "task_name=x", "model.model_args.pretrained_model_name_or_path=models/old")
    check(here, expunge(*words), ("models/old", "safetensors"))


def log_of(folder: Path, **meta: object) -> Path:
    """A retain log with the given meta."""
    path = folder / "TOFU_EVAL.json"
    entry = {"agg_value": 0.5, "value_by_index": {str(i): {"score": 0.5} for i in range(4)}}
    path.write_text(json.dumps({"forget_truth_ratio": entry, **({"_expunge": meta} if meta else {})}))
    return path


def test_a_retain_log_of_another_split(
    here: Path, tofu_source: Path, expunge: Callable[..., tuple[int, str, str]]
) -> None:
    log_of(here, benchmark="tofu", forget_split="forget05")
    words = (*UNLEARN, f"data.root={tofu_source}", "retain_logs_path=TOFU_EVAL.json")
    check(here, expunge(*words), ("retain_logs_path", "forget05", "forget10"))


def test_a_retain_log_with_other_rows(
    here: Path, tofu_source: Path, expunge: Callable[..., tuple[int, str, str]]
) -> None:
    path = log_of(here)
    entry = json.loads(path.read_text())
    entry["forget_truth_ratio"]["value_by_index"]["4"] = {"score": 1.0}
    path.write_text(json.dumps(entry))
    words = (*UNLEARN, f"data.root={tofu_source}", "retain_logs_path=TOFU_EVAL.json")
    check(here, expunge(*words), ("retain_logs_path", "5 forget rows", "has 4"))


def test_a_summary_in_place_of_a_retain_log(
    here: Path, tofu_source: Path, expunge: Callable[..., tuple[int, str, str]]
) -> None:
    (here / "TOFU_SUMMARY.json").write_text('{"forget_truth_ratio": 0.5}')
    words = (*UNLEARN, f"data.root={tofu_source}", "retain_logs_path=TOFU_SUMMARY.json")
    check(here, expunge(*words), ("TOFU_SUMMARY.json", "EVAL.json"))


def test_an_output_folder_in_use_is_left_alone(
    here: Path, tofu_source: Path, expunge: Callable[..., tuple[int, str, str]]
) -> None:
    mine = here / "mine" / "thesis.txt"
    mine.parent.mkdir()
    mine.write_text("years of work")
    words = (*UNLEARN, f"data.root={tofu_source}", "paths.output_dir=mine")
    check(
        here, expunge(*words), ("task_name=x", "mine already contains something else; choose another paths.output_dir")
    )
    assert mine.read_text() == "years of work"
