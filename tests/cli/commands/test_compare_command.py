"""`expunge compare`: logs, folders and what cannot be compared; the page has every metric and example."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

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
