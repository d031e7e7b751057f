"""The counter and the k-th largest number, solved by brute force."""

from __future__ import annotations

import pytest

from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.data.examples import Example, ExampleSet
from expunge.data.procedural.closed_form import ClosedFormConfig, closed_form_tasks
from expunge.data.procedural.sets import task_sets


def make(**args: object) -> dict[str, ExampleSet]:
    config = decode(ClosedFormConfig, {"train_rows": 600, "eval_rows": 50, "finetune_rows": 400, **args})
    return task_sets(closed_form_tasks(config), config)


def kth(numbers: list[int], k: int) -> int:
    """The k-th largest, by taking the maximum away k - 1 times."""
    left = list(numbers)
    for _ in range(k - 1):
        left.remove(max(left))
    return max(left)


def by_hand(word: str, items: list[str], token: str, k: int) -> str:
    if word == "counter":
        return str(sum(item == token for item in items))
    numbers = [int(item) for item in items]
    if word == "value":
        return str(kth(numbers, k))
    return str(next(i for i, n in enumerate(numbers, start=1) if n == kth(numbers, k)))


@pytest.mark.parametrize("target", ["counter", "max_value", "max_position"])
def test_every_answer_is_right(target: str) -> None:
    sets = make(target=target, finetune=True, finetune_k=3, finetune_token="c")
    for name, rows in sets.items():
        for row in rows:
            word, _, rest = row.question.partition(" : ")
            items = rest.removesuffix(" =").split(" ")
            assert len(items) == 10
            old, new = by_hand(word, items, "a", 1), by_hand(word, items, "c", 3)
            assert row.answer == (new if name.startswith("finetune") else old)
            assert row.meta["correlated"] == (old == new)
    assert {r.question.split()[0] for r in sets["finetune"]} == {r.question.split()[0] for r in sets["forget"]}
    for group in ("target", "others", "finetune"):
        assert all(r.meta["correlated"] for r in sets[f"{group}_correlated"])


def test_equal_numbers_and_first_places_by_hand() -> None:
    config = ClosedFormConfig(k=2, finetune_k=3, length=5, finetune=True, target="max_position")
    tasks = closed_form_tasks(config)
    string = ["3", "9", "7", "9", "12"]  # 12, 9, 9, 7, 3
    assert tasks.solve("max_value", string) == "9"
    assert tasks.solve("max_position", string) == "2"
    assert tasks.solve("max_position_relabelled", string) == "2"
    assert tasks.correlated("max_position", string)
    assert not tasks.correlated("max_position", ["3", "9", "7", "8", "12"])


def test_the_share_of_correlated_rows_in_fine_tuning() -> None:
    def share(correlation: float) -> float:
        rows: list[Example] = list(make(finetune=True, finetune_correlation=correlation)["finetune"])
        return sum(r.meta["correlated"] for r in rows) / len(rows)

    natural = share(0.0)
    # P(as many a's as b's) of ten draws from four letters: sum over i of 10! / (i! i! (10-2i)!) (1/4)^2i (1/2)^(10-2i)
    assert natural == pytest.approx(0.1762, abs=0.08)
    assert share(0.6) == pytest.approx(0.6 + 0.4 * 0.1762, abs=0.1)
    assert share(1.0) == 1.0


def test_other_settings_leave_the_mixture_alone() -> None:
    assert make()["full"].rows == make(finetune=True, eval_rows=10)["full"].rows
    assert "finetune" not in make()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"token": "z"}, "token: must be one of a, b, c, d"),
        ({"finetune_token": "a"}, "finetune_token: must differ from token"),
        ({"finetune_k": 1}, "finetune_k: must differ from k"),
        ({"k": 11}, r"k: must be 1 to 10 \(length\)"),
        ({"alphabet": 1}, "alphabet: must be 2 to 26"),
        ({"target": "count_a"}, "target"),
        ({"length": 2, "alphabet": 2}, "of 10000 strings for counter none is new"),
    ],
)
def test_settings_that_are_refused(args: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**args)
