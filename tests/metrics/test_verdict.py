"""The verdict on a model: its answers, the order of models, and texts that say what the numbers say."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from expunge.core.records import Floats
from expunge.metrics.api import MetricResult
from expunge.metrics.equivalence import AuditFinding, compare_to_controls
from expunge.metrics.fluency import gibberish
from expunge.metrics.utility import utility_answer
from expunge.metrics.verdict import (
    DIRECT,
    Verdict,
    choice,
    describe,
    direct_findings,
    make_verdict,
    ranked,
    share_text,
    statistic_of,
)

RNG = np.random.default_rng(0)
RETAIN, FULL = RNG.normal(0.1, 0.01, 60), RNG.normal(0.9, 0.01, 60)


def result(values: Floats, statistic: str = "prob") -> MetricResult:
    rows = {i: {"other": 2.0, statistic: float(v)} for i, v in enumerate(values)}
    return MetricResult(float(values.mean()), per_row=rows)


def utility(value: float, **extra: float) -> dict[str, MetricResult]:
    """A utility with the interval of many rows, or with the given one."""
    return {"model_utility": MetricResult(value, extra=extra or {"ci_low": value - 1e-4, "ci_high": value + 1e-4})}


def at(position: float, seed: int = 1) -> Floats:
    """Numbers of a model at a position between the retain and the target model."""
    return np.random.default_rng(seed).normal(0.1 + 0.8 * position, 0.01, 60)


def finding(name: str, position: float) -> AuditFinding:
    return compare_to_controls(name, (at(position), RETAIN, FULL))


def verdict_of(model: str, position: float, rest: float = 0.97, robust: float | None = None) -> Verdict:
    findings = [(DIRECT, finding("forget_Q_A_Prob", position))]
    findings += [] if robust is None else [("relearn", finding("same_rows", robust))]
    return make_verdict(model, findings, utility_answer([utility(rest)], [utility(1.0)], "model_utility", 0.5))


def test_controls_without_an_audit_of_the_model_as_it_is_are_not_called_missing() -> None:
    answer = utility_answer([utility(1.0)], [utility(1.0)], "model_utility", 0.5)
    verdict = make_verdict("m", [("relearn", finding("same_rows", 0.0))], answer)
    assert verdict.forgot.word == "not tested" and "exposure" in verdict.forgot.sentence
    assert "no retain model" not in str(verdict).lower() and repr(verdict) == str(verdict)
    alone = dataclasses.replace(finding("same_rows", 0.0), retain=math.nan)
    assert "no retain model" in make_verdict("m", [("relearn", alone)], answer).forgot.sentence


def test_each_question_is_answered_by_its_audits() -> None:
    findings = [
        (DIRECT, finding("forget_Q_A_Prob", 0.0)),
        ("relearn", finding("same_rows", 0.0)),
        ("relearn 2", finding("same_rows", 0.5)),
        ("exposure", finding("erased_rows", -0.5)),
    ]
    rest = utility_answer([utility(0.97)], [utility(1.0)], "model_utility", 0.5)
    verdict = make_verdict("NPO", findings, rest, seeds=2)
    words = {name: answer.word for name, answer in verdict.answers.items()}
    assert words == {
        "forgot": "no trace", "kept": "kept", "detectable": "detectable", "robust": "recoverable", "certainty": "sure",
    }  # fmt: skip
    assert "relearn 2 same_rows is 0.5" in verdict.robust.sentence.lower()
    assert "1 no trace, 1 trace; together, with Holm's correction: trace" in verdict.robust.sentence
    assert verdict.robust.number == pytest.approx(at(0.5).mean())
    assert "60 rows, 2 seeds, 4 measurements" in verdict.certainty.sentence
    assert str(verdict).splitlines()[0] == "NPO" and "Forgot?" in str(verdict)


def test_text_and_numbers_come_from_one_finding() -> None:
    one = finding("forget_Q_A_Prob", 0.3)
    answer = make_verdict("m", [(DIRECT, one)], utility_answer([], [], "u", 0.5)).forgot
    assert (answer.number, answer.low, answer.high, answer.control) == (one.value, one.low, one.high, one.retain)
    assert f"{one.value:.3g} [{one.low:.3g}, {one.high:.3g}], {one.retain:.3g} in the retain model" in answer.sentence


def test_without_controls_nothing_is_claimed() -> None:
    verdict = make_verdict(
        "m", [("relearn", AuditFinding("x", note="no retain model"))], utility_answer([], [], "u", 0.5)
    )
    assert verdict.forgot.word == verdict.robust.word == "not measurable" and verdict.detectable.word == "not tested"
    assert "no retain model" in verdict.robust.sentence
    assert verdict.kept.word == verdict.certainty.word == "not measurable"
    assert "nan" not in str(verdict).lower() and "None" not in str(verdict)


def test_json_and_html_keep_every_answer() -> None:
    verdict = verdict_of("<b>m</b>", 0.0, robust=0.4)
    again = Verdict.from_dict(json.loads(json.dumps(verdict.to_dict(), allow_nan=False)))
    assert str(again) == str(verdict) and again.rank_key == verdict.rank_key
    page = verdict._repr_html_()
    assert "&lt;b&gt;m" in page and "<b>m" not in page and page.count("<tr>") == 5


@pytest.mark.parametrize(
    ("share", "extra", "word"),
    [
        (0.97, {}, "kept"),
        (0.9, {}, "damaged"),
        (0.97, {"n_missing": 0.0}, "undecided"),
        (0.9, {"n_missing": 0.0}, "undecided"),
        (0.4, {}, "broken"),
        (0.97, {"ci_low": 0.9, "ci_high": 1.0}, "undecided"),
        (0.97, {"ci_low": 0.96, "ci_high": 0.98}, "kept"),
        (math.nan, {}, "not measurable"),
    ],
)
def test_utility_is_a_share_of_the_target_models(share: float, extra: dict[str, float], word: str) -> None:
    mine = {**utility(share, **extra), "mmlu": MetricResult(0.3)}
    answer = utility_answer([mine], [{**utility(1.0), "mmlu": MetricResult(0.4)}], "model_utility", 0.5)
    assert answer.word == word
    assert word == "not measurable" or "general ability: mmlu 0.3 (target model 0.4)" in answer.sentence


def test_a_target_model_without_utility_is_said_to_have_none() -> None:
    for value in (0.0, 0.05):  # a share of so little is noise
        answer = utility_answer([utility(value)], [utility(value)], "model_utility", 0.5)
        assert answer.word == "not measurable" and f"is {value:.3g}: it had no utility to keep" in answer.sentence
    assert utility_answer([utility(0.06)], [utility(0.06)], "model_utility", 0.5).word == "kept"


def test_a_model_below_the_retain_model_gains_nothing_and_a_broken_one_has_no_rank() -> None:
    clean, below, trace, known = (verdict_of(n, x) for n, x in (("a", 0.0), ("b", -0.5), ("c", 0.3), ("d", 1.0)))
    broken = verdict_of("e", 0.0, rest=0.1)
    alive, out = ranked([known, below, broken, trace, clean])
    assert [v.model for v in alive] == ["a", "c", "b", "d"] and [v.model for v in out] == ["e"]
    assert broken.broken.endswith("below the floor of 0.5.") and broken.kept.sentence.startswith(broken.broken[:-1])
    assert len(broken.broken) < len(broken.kept.sentence)  # the answer has the rest
    assert below.forgot.word == "over-forgotten" and "Below" in str(dataclasses.replace(below)).title()
    assert choice([known, clean, broken]) == (
        "Choose a: no trace, 97% [97%, 97%] of the utility is left. Broken and not ranked: e."
    )
    assert choice([below, known]).startswith("No model matches the retain model. b is the nearest (forget_Q_A_")
    assert "margins below the retain model): over-forgotten" in choice([below, known])
    assert choice([broken]).startswith("Choose none")


def test_the_model_nearer_to_the_retain_model_comes_first_on_either_side() -> None:
    below, trace, near = (verdict_of(n, x) for n, x in (("below", -0.12), ("trace", 0.3), ("near", 0.05)))
    far = verdict_of("far", -0.6)
    assert far.forgot.word == below.forgot.word == "over-forgotten" and near.forgot.word == "trace"
    assert [v.model for v in ranked([trace, far, below, near])[0]] == ["near", "below", "trace", "far"]
    assert choice([far, near]).startswith("No model matches the retain model. near is the nearest (forget_Q_A_")
    assert near.forgot.farthest.endswith(" margins above the retain model") and "): trace" in choice([far, near])
    assert far.forgot.distance == pytest.approx(6, abs=0.1)


def test_robustness_decides_between_models_at_the_same_distance() -> None:
    recovered, robust = verdict_of("recovered", 0.29, robust=0.6), verdict_of("robust", 0.31, robust=0.0)
    assert [v.model for v in ranked([recovered, robust])[0]] == ["robust", "recovered"]


def test_equal_verdicts_are_ordered_by_utility_and_said_to_be_equal() -> None:
    text = choice([verdict_of("a", 0.0, 0.96), verdict_of("b", 0.0, 0.99)])
    assert text.startswith("Choose b") and "equal to a; utility decided" in text


def test_without_utility_no_choice_is_said_to_follow_from_it() -> None:
    unknown = utility_answer([], [], "model_utility", 0.5)
    text = choice([dataclasses.replace(verdict_of(name, 0.0), kept=unknown) for name in ("a", "b")])
    assert text == "Choose a: no trace. By forgetting alone it is equal to b; no utility is known that could decide."


def test_robustness_comes_before_utility_and_its_lack_is_said_with_the_choice() -> None:
    text = choice([verdict_of("weak", 0.0, 0.99, robust=0.6)])
    start = "Choose weak: no trace, but recoverable under attack (relearn same_rows), 99% ["
    assert text.startswith(start) and text.endswith("] of the utility is left.")
    weak, strong = verdict_of("weak", 0.0, 0.99, robust=0.6), verdict_of("strong", 0.0, 0.96, robust=0.0)
    assert [v.model for v in ranked([weak, strong])[0]] == ["strong", "weak"]


def test_direct_findings_pair_rows_and_average_seeds() -> None:
    sides = [[{"forget_Q_A_Prob": result(at(p, s))} for s in (1, 2)] for p in (0.0, 0.0, 1.0)]
    (one,) = direct_findings(*sides)
    assert one.verdict == "no trace" and one.rows == 60
    assert one.value == pytest.approx((at(0.0, 1).mean() + at(0.0, 2).mean()) / 2)
    assert direct_findings(sides[0], [], sides[2]) == []
    (alone,) = direct_findings(sides[0], sides[1], [])  # the margin is a tenth of the distance from 0.1 to 1
    assert alone.margin == pytest.approx(0.1 * (1 - one.retain)) and math.isnan(alone.full + alone.position)
    assert alone.verdict == "no trace" and "without a target model" in alone.note
    aggregate = [{"forget_Q_A_Prob": MetricResult(0.1)}]  # without rows there is nothing to pair
    assert direct_findings(aggregate, *sides[1:]) == []


def test_seeds_that_disagree_never_hide_in_their_mean() -> None:
    above, below = (compare_to_controls("p", (at(x), RETAIN, FULL)) for x in (0.2, -0.2))
    mean = compare_to_controls("p", ((at(0.2) + at(-0.2)) / 2, RETAIN, FULL))
    rest = utility_answer([utility(0.97)], [utility(1.0)], "model_utility", 0.5)
    assert mean.verdict == "no trace"
    verdict = make_verdict("m", [(DIRECT, mean)], rest, seeds=2, by_seed=[[above], [below]])
    assert verdict.forgot.word == "trace" and verdict.forgot.number == above.value
    assert verdict.forgot.sentence.endswith("Seeds disagree: 1 over-forgotten, 1 trace.")
    assert verdict.certainty.word == "partly"
    alike = make_verdict("m", [(DIRECT, mean)], rest, seeds=2, by_seed=[[mean], [mean]])
    assert alike.forgot.word == "no trace" and alike.certainty.word == "sure"


def test_the_utility_of_seeds_that_disagree_is_undecided() -> None:
    seeds, target = [utility(0.8, n=0.0), utility(1.2, n=0.0)], [utility(1.0)]
    answer = utility_answer(seeds, target, "model_utility", 0.5)
    assert answer.word == "undecided" and "single seeds 0.8 to 1.2" in answer.sentence
    assert "without an interval" in utility_answer(seeds[:1], target, "model_utility", 0.5).sentence
    assert utility_answer(seeds[1:] * 2, target, "model_utility", 0.5).word == "kept"
    assert utility_answer(seeds[:1] * 2, target, "model_utility", 0.5).word == "damaged"


def test_without_a_comparison_the_largest_number_is_shown() -> None:
    small, large = (AuditFinding("x", value=v, note="no retain model", rows=9) for v in (0.06, 0.94))
    findings = [("prompting", small), ("relearn", large), ("quantize", AuditFinding("y", note="did not run"))]
    robust = make_verdict("m", findings, utility_answer([], [], "u", 0.5)).robust
    assert robust.word == "not measurable" and robust.number == 0.94 and robust.sentence.startswith("Relearn x is 0.94")


def test_models_without_a_verdict_are_not_called_equal() -> None:
    first, second = (make_verdict(name, [("relearn", finding("x", 0.3))],
                                  utility_answer([utility(rest)], [utility(1.0)], "model_utility", 0.5))
                     for name, rest in (("a", 0.96), ("b", 0.99)))  # fmt: skip
    text = choice([first, second])
    assert text.startswith("No choice is proven. b") and "equal" not in text and "Nothing separates it from a" in text


def test_a_rounded_share_is_on_the_side_of_its_word() -> None:
    assert [share_text(x) for x in (0.9449, 0.9451, 0.949, 0.95, 0.97)] == ["94%", "94.5%", "94.9%", "95%", "97%"]
    assert "94.5% [94%, 94.5%] of the utility" in choice([verdict_of("a", 0.0, 0.9451)])


def test_a_sentence_shows_the_retain_model_on_the_side_of_its_word() -> None:
    over = AuditFinding("x", 0.1011, 0.0936, 0.10891, 0.10894, 0.306, verdict="over-forgotten", margin=0.02)
    assert describe(over, "x").startswith("X is 0.1011 [0.0936, 0.10891], 0.10894 in the retain model")
    plain = AuditFinding("x", 0.1011, 0.0936, 0.11, 0.109, 0.306, verdict="undecided", margin=0.02)
    assert describe(plain, "x").startswith("X is 0.101 [0.0936, 0.11], 0.109 in the retain model and 0.306")


def test_the_statistic_is_the_one_whose_mean_is_the_value() -> None:
    assert statistic_of(result(np.array([0.1, 0.3]), "rougeL_f1")) == "rougeL_f1"
    assert statistic_of(MetricResult(0.7, per_row={0: {"prob": 0.1}})) is None


def test_gibberish_repeats_itself_or_is_empty() -> None:
    good, bad = "She was born in a small town near the sea", "the the the the the the the the"
    text = gibberish([bad, bad, "", good], [good] * 4)
    assert text.startswith("gibberish: 75% of its answers") and text.endswith("(0% before)")
    assert "before" not in gibberish([bad], [])
    assert gibberish([bad, good, good, good], [good]) == "" and gibberish([], []) == ""
    assert gibberish([bad] * 4, [bad] * 4) == ""  # the model before was no better: unlearning did not break it
