"""The grammar's strings, the thirteen tasks solved by brute force, and the knobs."""

from __future__ import annotations

import dataclasses
import random
import re
from collections import Counter

import pytest

from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.data.examples import Example, ExampleSet
from expunge.data.procedural.pcfg import PcfgConfig, make_grammar, pcfg_tasks
from expunge.data.procedural.sets import most_common_share, task_sets

SMALL = PcfgConfig(train_rows=1300, eval_rows=60, finetune_rows=60, window=12, occurrence=2, depth=2)
EVALUATED = {f"{group}_{kind}" for group in ("target", "others") for kind in ("uncorrelated", "correlated")}


def make(config: PcfgConfig = SMALL, **changes: object) -> dict[str, ExampleSet]:
    changed = dataclasses.replace(config, **changes)  # type: ignore[arg-type]
    return task_sets(pcfg_tasks(changed), changed)


def parts(row: Example) -> tuple[str, str, str]:
    """Kind, operand and string, as the question has them."""
    result = re.fullmatch(r"(count|index|token) ([A-C]{1,2}|\d+) : ((?:[abc] )+)=", row.question)
    assert result, row.question
    return result[1], result[2].lower(), result[3].replace(" ", "")


def by_hand(row: Example, window: int, occurrence: int) -> str:
    """The answer, counted from the other end than the package does."""
    kind, operand, string = parts(row)
    backwards = string[::-1][:window]
    if kind == "token":
        return backwards[int(operand) - 1]
    places = [m.start() + len(operand) for m in re.finditer(f"(?={operand})", backwards)]
    if kind == "count":
        return str(len(places))
    return str(places[occurrence - 1]) if len(places) >= occurrence else "-1"


@pytest.mark.parametrize(("window", "occurrence", "depth"), [(12, 2, 2), (40, 6, 3), (15, 1, 2)])
def test_every_answer_is_right(window: int, occurrence: int, depth: int) -> None:
    sets = make(window=window, occurrence=occurrence, depth=depth, train_rows=400, eval_rows=20, finetune="count_b")
    assert EVALUATED | {"full", "finetune", "finetune_correlated"} < set(sets)
    for rows in sets.values():
        for row in rows:
            assert row.answer == by_hand(row, window, occurrence), row
            records = parts(row)[2][-window:]
            assert len(records) == window
            assert row.meta["correlated"] == (records.count("a") - records.count("b") == 1)


def test_a_few_answers_by_hand() -> None:
    solve = pcfg_tasks(dataclasses.replace(SMALL, window=6, occurrence=2)).solve
    string = "cccbaaabc"  # the last six are b a a a b c
    tasks = ("count_a", "count_aa", "count_c", "index_a", "index_aa", "index_b", "index_c", "token_at_6")
    assert [solve(task, string) for task in tasks] == ["3", "2", "1", "4", "5", "6", "-1", "b"]


def test_the_default_tasks_are_the_thirteen() -> None:
    named = {f"{kind}_{x}" for kind in ("count", "index") for x in ("a", "b", "c", "aa", "bb", "cc")}
    assert set(pcfg_tasks(PcfgConfig()).weights) == named | {"token_at_40"}


def test_sides_and_measured_rows() -> None:
    sets = make()
    full = [(r.question, r.answer) for r in sets["full"]]
    assert Counter(full) == Counter((r.question, r.answer) for n in ("forget", "retain") for r in sets[n])
    assert {r.meta["task"] for r in sets["forget"]} == {"count_a"}
    assert "count_a" not in {r.meta["task"] for n in ("retain", "others_correlated") for r in sets[n]}
    requests = {question for question, _ in full}
    for name in EVALUATED:
        assert len(sets[name]) == 60 and sets[name].form == "completion"
        assert not requests & {r.question for r in sets[name]}
    assert all(r.meta["correlated"] for n in ("target_correlated", "others_correlated") for r in sets[n])
    assert not all(r.meta["correlated"] for r in sets["target_uncorrelated"])


def test_kinds_are_equally_frequent_and_operands_have_their_prior() -> None:
    tasks = [r.meta["task"] for r in make(train_rows=6000, operand_prior={"a": 0.8, "bb": 0.2})["full"]]
    shares = {task: n / 6000 for task, n in Counter(tasks).items()}
    third = 1 / 3
    targets = {"count_a": 0.8 * third, "count_bb": 0.2 * third, "index_a": 0.8 * third, "index_bb": 0.2 * third}
    assert shares == pytest.approx(targets | {"token_at_12": third}, abs=0.025)  # four standard errors at 1/3


@pytest.mark.parametrize("correlation", [0.5, 1.0])
def test_the_share_of_correlated_rows(correlation: float) -> None:
    rows = make(train_rows=2000, correlation=correlation)["full"]
    natural = sum(r.meta["correlated"] for r in make(train_rows=2000)["full"]) / 2000
    share = sum(r.meta["correlated"] for r in rows) / 2000
    assert 0.02 < natural < 0.25
    assert share == pytest.approx(correlation + (1 - correlation) * natural, abs=0.045)


def test_same_seed_same_rows_and_nothing_shifts_the_others() -> None:
    one, again, more = make(), make(), make(train_rows=1400)
    assert {n: s.fingerprint() for n, s in one.items()} == {n: s.fingerprint() for n, s in again.items()}
    assert one["full"].rows == more["full"].rows[:1300]
    assert make(seed=1)["full"].rows != one["full"].rows
    hinted = make(correlation=0.3)["full"]
    same = sum(a == b for a, b in zip(one["full"], hinted, strict=True)) / 1300
    assert same == pytest.approx(0.7, abs=0.08)
    assert one["full"].fingerprint()[:16] == "ab459680bb29898f"  # of these settings on any machine


def test_sentences_are_as_long_as_the_grammar_says() -> None:
    for seed in range(5):
        grammar, rng = make_grammar(seed, 3), random.Random(seed)
        lengths = {len(grammar.sentence(rng)) for _ in range(300)}
        assert min(lengths) >= 8 and max(lengths) <= 27 and len(lengths) > 5
        letters = Counter("".join(grammar.sentence(rng) for _ in range(300)))
        assert set(letters) == {"a", "b", "c"} and min(letters.values()) > 0.1 * letters.total()


def test_guessing_the_most_frequent_answer() -> None:
    answers = [("x", "1"), ("x", "1"), ("x", "2"), ("y", "3")]
    rows = tuple(Example(i, "q", {"answer": a}, meta={"task": t}) for i, (t, a) in enumerate(answers))
    assert most_common_share(ExampleSet("rows", rows)) == 0.75


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"target": "count_d"}, r"^data\.args\.target=count_d: no such task is trained; did you mean"),
        ({"tasks": ["count_a"]}, r"^data\.args\.target=count_a: it is the only task"),
        ({"operand_prior": {"b": 1}}, r"^data\.args\.target=count_a: no such task is trained"),
        ({"tasks": ["count_a"], "operand_prior": {"b": 1}}, r"^data\.args\.operand_prior: it leaves no task"),
        ({"operand_prior": {"d": 1}}, r"^data\.args.*operand_prior: no operand 'd'"),
        ({"operand_prior": {"a": -1}}, r"^data\.args.*operand_prior: the share of a"),
        ({"finetune": "count_z"}, r"^data\.args.*finetune: no task 'count_z'"),
        ({"correlation": 1.5}, r"^data\.args.*correlation: must be a probability"),
        ({"window": 1}, r"^data\.args.*window: must be 2 to 500"),
        ({"train_rows": 1}, r"^data\.args\.train_rows=1: none of these rows is to forget"),
        ({"window": 2, "depth": 1, "train_rows": 9000}, r"^data\.args\.seed=0: .* row \d+: of 10000 strings for "),
    ],
)
def test_settings_that_are_refused(args: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config = decode(PcfgConfig, args, where="data.args")
        task_sets(pcfg_tasks(config), config)
