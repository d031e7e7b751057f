"""`expunge` without words, `expunge list`, `--help`, and `plan`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import expunge as package
from expunge.cli.arguments import build_parser
from expunge.cli.catalogue import show
from expunge.cli.lists import command_lines
from expunge.cli.main import main
from expunge.cli.parser import commands_of
from expunge.core.registry import BADGES
from expunge.pipelines.study_jobs.memory import estimate_memory, shape_of
from expunge.training.config import TrainArgs

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("what", "some"),
    [
        ("methods", {"GradAscent", "GradDiff", "NPO", "finetune"}),
        ("metrics", {"probability", "truth_ratio", "forget_quality", "model_utility", "rouge"}),
        ("benchmarks", {"tofu", "world"}),
        ("audits", {"relearn", "quantize"}),
        ("studies", {"quickstart", "tofu_tiny"}),
        ("experiments", {"unlearn/tofu/default", "eval/tofu/default"}),
        ("models", {"SmolLM2-135M-Instruct", "llama-1m"}),
    ],
)
def test_lists_as_json_and_as_a_table(what: str, some: set[str], expunge: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = expunge("list", what, "--json")
    entries = json.loads(out)
    assert code == 0
    assert some <= set(entries)
    assert all(entry["about"] for entry in entries.values())
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = expunge("list", what)
    assert code == 0
    assert all(name in out for name in entries)  # a name is never cut
    assert max(map(len, out.splitlines())) <= 80


def test_the_list_of_studies_has_the_command_to_paste(expunge: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = expunge("list", "studies")
    lines = out.splitlines()
    assert code == 0
    assert "      expunge run study=tofu_tiny data.root=FOLDER" in lines
    start = lines.index("      expunge run study=erase_people forget=FORGET.csv retain=KEEP.csv \\")
    assert lines[start + 1] == "        model=FOLDER"
    assert not [line for line in lines if "expunge run" in line and not line.strip().startswith("expunge run")]
    assert "expunge run study=quickstart" not in out  # a command without further words is no news


def test_parts_of_other_files_are_not_listed(expunge: Run) -> None:
    _, out, _ = expunge("list", "experiments", "--json")
    assert not [name for name in json.loads(out) if name.rpartition("/")[2].startswith("_")]


def test_the_first_sentence_does_not_end_at_a_title(expunge: Run) -> None:
    code, out, _ = expunge("list", "experiments")
    assert code == 0 and "(Mr. Snuffleupagus), for the task's 1B model." in " ".join(out.split())


def test_one_page(expunge: Run) -> None:
    code, out, err = expunge("methods", "NPO")  # the name of earlier releases
    assert code == 0 and "`expunge methods` is now `expunge list methods`" in err
    assert "arXiv:2404.05868" in out
    assert "beta=0.1" in out


def test_help_loads_no_heavy_library() -> None:
    """Counted rather than timed: a help text that pulls in torch would take seconds."""
    code = (
        "import sys; from expunge.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'hydra', 'pydantic', 'rich', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "expunge run study=quickstart" in done.stdout


def test_plan_shows_the_graph_and_writes_nothing(here: Path, expunge: Run) -> None:
    code, out, _ = expunge("plan", "study=quickstart", "--json")
    jobs = json.loads(out)
    assert code == 0
    assert [j["state"] for j in jobs].count("missing") == 1  # the base, which all others wait for
    assert [j["state"] for j in jobs].count("blocked") == len(jobs) - 1
    assert [j["kind"] for j in jobs].count("unlearn") == 4
    assert [j["kind"] for j in jobs].count("reference") == 2
    assert not (here / "saves").exists()
    code, out, _ = expunge("plan", "study=quickstart")
    assert code == 0
    assert "21 jobs: 0 hit, 1 missing, 20 blocked" in out


def test_a_plan_says_what_memory_its_largest_jobs_need(here: Path, expunge: Run) -> None:
    """By the same sums as `expunge memory`: the longest row, and as many sides as a sample has."""
    words = ("study=quickstart", "model=llama-8m", "unlearn.bf16=true")
    out = expunge("plan", *words, "--json")[1]
    needs = {f"{j['kind']} {j['label']}": j["memory"] for j in json.loads(out)}
    shape, args = shape_of("llama-8m"), TrainArgs(bf16=True)
    result = {estimate_memory(shape, args, "ddp", length=n, sides=2).total for n in range(10, 100)}
    assert needs["unlearn NPO"] in result
    assert needs["unlearn NPO"] > needs["unlearn GradAscent"] > 0 and needs["metrics NPO"] is None
    assert needs["score full forget_eval tokens"] > 4 * shape.parameters
    line = " ".join(expunge("plan", *words)[1].split())
    most = max(((n, value) for n, value in needs.items() if n.startswith(("train", "unlearn"))), key=lambda of: of[1])
    assert f"training up to {most[1] / 2**30:.3g} GiB ({most[0]}), evaluation up to 0." in line


def test_a_plan_says_why_it_knows_no_memory(here: Path, expunge: Run) -> None:
    words = ("model.model_args.pretrained_model_name_or_path=someone/model",)
    out = " ".join(expunge("plan", "study=quickstart", *words)[1].split())
    assert "training unknown (no model folder and no known model 'someone/model'" in out
    done = " ".join(expunge("plan", "study=stories_tiny")[1].split())
    assert "training up to" in done and "evaluation up to" in done


def test_settings_may_stand_anywhere(capsys: pytest.CaptureFixture[str]) -> None:
    ways = (
        ("memory", "llama-8m", "bf16=true", "--processes", "4", "lora.r=4"),
        ("memory", "--processes", "4", "llama-8m", "lora.r=4", "bf16=true"),
    )
    lines = []
    for words in ways:
        assert main(words) == 0
        lines.append(capsys.readouterr().out)
    assert lines[0] == lines[1]
    assert main(("memory", "llama-8m", "--processes", "4", "bf16=true", "more")) == 2
    message = capsys.readouterr().err  # argparse itself reads words after an option in Python 3.14
    assert "unrecognized arguments: more" in message or "'more' is not a setting" in message


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "expunge", "list", "metrics", "--json"], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


TESTS = Path(__file__).parents[1]
DATA_BADGES = ("files", "schema")


@pytest.mark.parametrize(
    ("what", "allowed"),
    [
        ("methods", ("formula", "code", "reading", "")),
        ("metrics", ("formula", "code", "reading", "")),
        ("benchmarks", (*DATA_BADGES, "reading", "")),  # data have no formula
        ("audits", ("reading", "")),  # the verdict against two controls is in no paper
    ],
)
def test_every_entry_says_how_it_was_checked(
    what: str, allowed: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    """A paper without a badge would be an own definition, which names its source in words."""
    assert show(what, None, as_json=True) == 0
    entries = json.loads(capsys.readouterr().out)
    assert {e["checked"] for e in entries.values()} == {BADGES[badge] for badge in allowed}
    bare = [
        name for name, e in entries.items() if e.get("paper", "").startswith("arXiv") and e["checked"] == BADGES[""]
    ]
    assert bare == []


def test_a_checked_metric_has_a_number_derived_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """The badges of a formula stand for a golden case that says why its number is right."""
    assert show("metrics", None, as_json=True) == 0
    checked = (BADGES["formula"], BADGES["code"])
    named = {name for name, e in json.loads(capsys.readouterr().out).items() if e["checked"] in checked}
    files = (TESTS / "golden" / "metrics").glob("*.json")
    cases = [case for file in files for case in json.loads(file.read_text(encoding="utf-8"))["cases"]]
    assert named - {case["family"] for case in cases if case["why"]} == set()


def test_a_checked_loss_has_tests_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    from expunge.methods import registry

    for name, spec in registry().items():
        if spec.fidelity in ("formula", "code"):
            file = TESTS / "methods" / f"test_{spec.cls.__module__.rpartition('.')[2]}.py"
            assert file.is_file() and "objective(" in file.read_text(encoding="utf-8"), name


def test_a_name_may_follow_an_option(expunge: Run, here: Path) -> None:
    (here / "mine.py").write_text("")
    code, out, err = expunge("list", "methods", "--plugin", "mine.py", "NPO")
    assert code == 0, err
    assert out.startswith("NPO") and "arXiv:2404.05868" in out


def test_the_version_is_a_plain_line(expunge: Run) -> None:
    code, out, err = expunge("--version")
    assert (code, out, err) == (0, f"expunge {package.__version__}\n", "")


def test_without_words_it_shows_ways_to_start(expunge: Run) -> None:
    code, out, err = expunge()
    assert (code, err) == (0, "")
    for command in ("expunge run study=quickstart", "expunge list studies", "expunge erase", "expunge inspect"):
        assert command in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("plann",), "plan"),
        (("plan", "study=quickstart", "--jsn"), "--json"),
        (("list", "method"), "methods"),
        (("list", "methods", "NPOO"), "NPO"),
        (("results", "--formt", "csv"), "--format"),
        (("audit", "MODEL", "--forgt", "rows.csv"), "--forget"),  # the right one is required
        (("erase", "--frget", "rows.csv", "--model", "DIR"), "--forget"),
        (("config", "study=quickstart"), "expunge config run study=quickstart"),
        (("plan", "study", "quickstart"), "study=quickstart"),
        (("plan", "quikstart"), "study=quickstart"),
        (("list", "models", "smollm2"), "SmolLM2-1.7B-Instruct"),
        (("help", "unlearn.learnin_rate"), "unlearn.learning_rate"),
    ],
)
def test_a_typing_error_gets_the_nearest_name(words: tuple[str, ...], near: str, expunge: Run) -> None:
    code, out, err = expunge(*words)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1
    assert f"did you mean '{near}'?" in err


def test_a_wrong_command_gets_all_commands(expunge: Run) -> None:
    _, _, err = expunge("nothing-alike")
    assert {"audit", "unlearn", "verify"} <= set(re.split(r"[(), ;]+", err)) and "in all" not in err


@pytest.mark.parametrize("key", ["learning_rate", "lr"])
def test_the_last_part_of_a_key_gets_the_whole_keys(key: str, expunge: Run) -> None:
    _, _, err = expunge("plan", "study=quickstart", f"{key}=1e-4")
    assert err.endswith(f"{key}: unknown key; did you mean 'train.learning_rate' or 'unlearn.learning_rate'?\n")


def test_a_part_of_a_name_gets_the_names_that_contain_it(expunge: Run) -> None:
    _, _, err = expunge("plan", "study=quickstart", "model=smollm2")
    assert "(allowed: SmolLM2-1.7B-Instruct, SmolLM2-135M-Instruct, SmolLM2-360M-Instruct, ... (" in err


def test_models_from_scratch_are_the_last_group(expunge: Run) -> None:
    groups = [line for line in expunge("list", "models")[1].splitlines() if line and not line.startswith(" ")]
    assert groups[-2:] == ["Built from scratch", "expunge list models NAME shows one."]


@pytest.mark.parametrize(
    ("command", "required"),
    [
        ("list", "WHAT (allowed: studies, experiments, models, methods, metrics, audits, benchmarks); see"),
        ("config", "mode (allowed: run, train, unlearn, eval); see"),
        ("audit", "MODEL, --forget; see"),
    ],
)
def test_a_missing_word_gets_the_allowed_ones(command: str, required: str, expunge: Run) -> None:
    code, out, err = expunge(command)
    assert (code, out) == (2, "") and f"are required: {required} `expunge {command} --help`" in err


def test_the_help_of_each_command_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    parsers = {"": build_parser("")}
    for name, parser in list(parsers.items()):
        parsers |= {f"{name} {child}": sub for child, sub in commands_of(parser).items()}
    assert len(parsers) > 25
    for name, parser in parsers.items():
        assert [line for line in parser.format_help().splitlines() if len(line) > 80] == [], name


def test_a_command_to_paste_is_not_broken_in_quotes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "45")
    lines = list(command_lines('expunge erase --forget "Who is Ada Lovelace?" --out erased', "  "))
    assert lines == ["  expunge erase --forget \\", '    "Who is Ada Lovelace?" --out erased']


def test_a_page_is_wrapped_once() -> None:
    from expunge.cli.lists import rewrapped

    page = "One line\nof a paragraph.\n\n    x = 1\n    y = 2\n\nTry: expunge run \\\n    study=quickstart"
    assert rewrapped(page).split("\n\n") == [
        "One line of a paragraph.", "    x = 1\n    y = 2", "Try: expunge run study=quickstart"
    ]  # fmt: skip


def test_the_command_of_a_page_fits_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.cli.lists import rewrapped

    monkeypatch.setenv("COLUMNS", "60")
    command = "expunge unlearn experiment=unlearn/tofu/default \\\n    trainer=NPO 'trainer.method_args.layers=[a b]'"
    page = f"Try: {command} task_name=x"
    assert rewrapped(page).splitlines() == [
        "Try:",
        "  expunge unlearn experiment=unlearn/tofu/default \\",
        "    trainer=NPO 'trainer.method_args.layers=[a b]' \\",
        "    task_name=x",
    ]


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("metrics", ["Membership attacks", "Generated texts"]),
        ("audits", ["With a control", "With or without a control"]),
        ("benchmarks", ["Published", "Your own rows, and made-up ones"]),
        ("studies", ["Without further words", "With your files or your model"]),
        ("models", ["meta-llama", "Built from scratch"]),
    ],
)
def test_lists_have_groups(name: str, groups: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert set(groups) <= set(lines)
