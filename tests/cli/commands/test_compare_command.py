"""`expunge compare`: logs, folders and what cannot be compared; the page has every metric and example."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.cli.commands.compare import _without_label
from expunge.cli.run_folders import with_words, words_of_folder
from expunge.core.errors import ConfigError
from expunge.core.files import write_sealed

Run = Callable[..., tuple[int, str, str]]


def log(path: Path, values: list[float]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {str(k): {"prob": v} for k, v in enumerate(values)}
    mean = sum(values) / len(values)
    path.write_text(json.dumps({
        "forget_Q_A_Prob": {"value_by_index": rows, "agg_value": mean}, "privleak": {"agg_value": 3.0}
    }))  # fmt: skip
    return path


@pytest.fixture
def logs(here: Path) -> Path:
    log(here / "before/TOFU_EVAL.json", [0.5, 0.6, 0.7, 0.8])
    log(here / "after/evals/TOFU_EVAL.json", [0.1, 0.2, 0.2, 0.9])
    return here


def test_two_folders_are_compared_example_by_example(logs: Path, expunge: Run) -> None:
    code, out, err = expunge("compare", "before", "after", "--json")
    assert (code, err) == (0, "")
    result = json.loads(out)
    prob, leak = result["differences"]
    assert (prob["metric"], prob["n"]) == ("forget_Q_A_Prob", 4)
    assert prob["difference"] == pytest.approx(-0.3)
    assert prob["p"] == pytest.approx(4 / 16)  # of the 16 sign flips: all alike, and that of the last, twice
    assert leak["p"] is None and "not a mean" in leak["note"]
    page = (logs / result["page"]).read_text("utf-8")
    assert ": higher in 1 of 4 examples, lower in 3" in page
    assert "a larger value means" not in page  # a log does not say it, and an empty column helps nobody
    assert page.count("<rect ") == 4 and "+0.100" in page and "-0.500" in page


def test_a_file_and_the_terminal(logs: Path, expunge: Run) -> None:
    code, out, _ = expunge("compare", "before/TOFU_EVAL.json", "after", "--out", "c.html", "--metrics", "privleak")
    assert code == 0 and "privleak" in out and "forget_Q_A_Prob" not in out
    assert out.splitlines()[-2] == "page: c.html" and (logs / "c.html").is_file()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("before", "nope"), "B: 'nope' is no file, no folder and no study"),
        (("before", "mine"), "B: 'mine' is no file, no folder and no study; did you mean 'mine.yaml'?"),
        (("before", "mien.yaml"), "did you mean 'mine.yaml'?"),
        (("before", "quickstar"), "did you mean 'quickstart'?"),
        (("empty", "before"), "A: empty: has no ..._EVAL.json"),
        (("before", "after", "--metrics", "forget_Q_A_Prb"), "did you mean 'forget_Q_A_Prob'?"),
        (("quickstart", "before"), "A: quickstart has no results in saves/store yet"),
    ],
)
def test_what_cannot_be_compared_is_one_line(words: tuple[str, ...], part: str, logs: Path, expunge: Run) -> None:
    (logs / "empty").mkdir()
    (logs / "mine.yaml").touch()
    code, out, err = expunge("compare", *words)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1, err
    assert part in err
    assert not (logs / "saves").exists()


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("quickstart:NPO", ("quickstart", "NPO")),
        ("audits=[{name: relearn, ways: [same_rows]},quantize]", None),
        ("audits=[{name: relearn, rows: 4}]:NPO", ("audits=[{name: relearn, rows: 4}]", "NPO")),
        ("seeds.unlearn=[0,1]", None),
    ],
)
def test_a_colon_inside_brackets_is_no_label(word: str, parts: tuple[str, str] | None) -> None:
    assert _without_label(word) == (parts or (word, ""))


def test_words_longer_than_a_file_name_are_read(logs: Path, expunge: Run) -> None:
    code, _, err = expunge("compare", "study=quickstart data.world.authors=12 " + "seeds.train=[0] " * 30, "before")
    assert code == 2 and "has no results in saves/store yet" in err


def test_a_variant_is_named_by_its_folder(logs: Path, expunge: Run) -> None:
    folder = logs / "saves/study/quickstart-12345678"
    folder.mkdir(parents=True)
    (folder.parent / "quickstart-latest").symlink_to(folder.name)
    with pytest.raises(ConfigError, match="does not know which command"):
        words_of_folder("quickstart-latest")
    words = ["study=quickstart", "audits=[{name: relearn, rows: 4}]"]
    note = {
        "study": "quickstart", "folder": str(folder), "command": f"expunge run --plugin x.py {words[0]} '{words[1]}'",
        "state": "done", "began": 0.0, "updated": 0.0, "host": "h", "pid": 1, "process": "",
    }  # fmt: skip
    write_sealed(logs / "saves/store/.runs/quickstart.json", note)
    for name in ("quickstart-12345678", "quickstart-latest", "saves/study/quickstart-latest"):
        assert words_of_folder(name) == words
    assert words_of_folder("before") == words_of_folder("quickstart") == []
    code, _, err = expunge("compare", "quickstart-latest:NPO", "before")
    assert code == 2 and "A: quickstart has no results in saves/store yet" in err
    assert with_words(["study=quickstart-latest", "a=b"]) == [*words, "a=b"]
    assert with_words(["study=quickstart"]) == ["study=quickstart"]
    command = "expunge run study=quickstart 'audits=[{name: relearn, rows: 4}]'"
    for name in ("results", "report"):
        code, _, err = expunge(name, "study=quickstart-latest")
        assert code == 2 and f"study: quickstart has no results in saves/store yet; first run: {command}" in err
