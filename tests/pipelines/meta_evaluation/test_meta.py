"""Meta-evaluation: formulas by hand, and what a study's pools are made of."""

from __future__ import annotations

import csv
import html
import math
from pathlib import Path
from typing import Any

import pytest

from expunge.core.errors import ConfigError
from expunge.engine.job import in_order
from expunge.pipelines.meta_evaluation.formulas import (
    AttackedModel,
    MetaLine,
    from_csv,
    harmonic,
    knowledge_threshold,
    meta_line,
    oriented,
    quantize_score,
    relearn_score,
    to_csv,
    to_markdown,
)
from expunge.pipelines.study.config import decode_study
from expunge.pipelines.study.graph import build_graph
from expunge.pipelines.study.grid import study_graph
from expunge.pipelines.study.handle import load_study

NAN = math.nan


def test_relearning_by_hand() -> None:
    retain = AttackedModel(0.1, 0.3, 0.1)
    assert relearn_score(AttackedModel(0.1, 0.5, 0.1), retain, 1.0) == pytest.approx(0.5)  # rises twice as much
    assert relearn_score(AttackedModel(0.1, 0.2, 0.1), retain, 1.0) == 1.0
    assert relearn_score(AttackedModel(0.4, 0.2, 0.1), retain, 1.0) == 0.0  # falls, where the retain model rises
    assert relearn_score(AttackedModel(0.4, 0.3, 0.1), AttackedModel(0.4, 0.35, 0.4), 1.0) == pytest.approx(0.5)
    assert math.isnan(relearn_score(AttackedModel(0.4, 0.4, 0.1), retain, 1.0))  # the formula divides by 0
    assert relearn_score(AttackedModel(0.1, 0.2, 0.1), AttackedModel(0.3, 0.2, 0.3), 1.0) == 0.0
    # a loss falls as knowledge comes back: by 2 against the retain model's 1
    assert relearn_score(AttackedModel(4.0, 2.0, 4.0), AttackedModel(4.0, 3.0, 4.0), -1.0) == pytest.approx(0.5)
    assert math.isnan(relearn_score(AttackedModel(NAN, 0.2, 0.1), retain, 1.0))


def test_quantisation_by_hand() -> None:
    assert quantize_score(AttackedModel(0.2, 0.0, 0.8), 1.0) == pytest.approx(0.25)
    assert quantize_score(AttackedModel(0.2, 0.0, 0.1), 1.0) == 1.0
    assert quantize_score(AttackedModel(0.0, 0.0, 0.0), 1.0) == 1.0
    assert quantize_score(AttackedModel(0.0, 0.0, 0.1), 1.0) == 0.0
    assert quantize_score(AttackedModel(4.0, 0.0, 1.0), -1.0) == pytest.approx(0.25)  # the loss falls to a quarter
    assert math.isnan(quantize_score(AttackedModel(-1.0, 0.0, 1.0), 1.0))


def test_the_two_sided_formulas_by_hand() -> None:
    retain = AttackedModel(0.1, 0.3, 0.1)
    # rises of 0.4 and 0.2: 1 - 0.2 / 0.6; a fall of 0.2 against a rise of 0.2: 1 - 0.4 / 0.4
    assert relearn_score(AttackedModel(0.1, 0.5, 0.1), retain, 1.0, "two_sided") == pytest.approx(2 / 3)
    assert relearn_score(AttackedModel(0.4, 0.2, 0.1), retain, 1.0, "two_sided") == pytest.approx(0.0)
    assert relearn_score(AttackedModel(0.2, 0.2, 0.2), AttackedModel(0.2, 0.2, 0.2), 1.0, "two_sided") == 1.0
    # 0.2 before, 0.8 after, in either order: 1 - 0.6 / 1.0
    assert quantize_score(AttackedModel(0.2, 0.0, 0.8), 1.0, "two_sided") == pytest.approx(0.4)
    assert quantize_score(AttackedModel(0.8, 0.0, 0.2), 1.0, "two_sided") == pytest.approx(0.4)


def test_a_metric_that_falls_with_knowledge_is_read_as_one_minus_it() -> None:
    (one,), sign = oriented([AttackedModel(0.9, 0.5, 0.7)], -1.0)
    assert (one.before, one.relearned, one.quantized, sign) == pytest.approx((0.1, 0.5, 0.3, 1.0))
    assert oriented([AttackedModel(4.0, 2.0, 3.0)], -1.0) == ([AttackedModel(4.0, 2.0, 3.0)], -1.0)


def test_models_that_still_know_by_the_metric_itself_are_left_out() -> None:
    # P 0.5, 0.8, 0.9 and N 0.1, 0.2: every cut between 0.2 and 0.5 is perfect
    assert knowledge_threshold([0.8, 0.9, 0.5], [0.1, 0.2]) == pytest.approx(0.35)
    # one N above one P: 4 of 5 right at 0.35 and at 0.7; the smaller cut counts
    assert knowledge_threshold([0.8, 0.5], [0.1, 0.2, 0.6]) == pytest.approx(0.35)
    retain, with_P, without_N = AttackedModel(0.1, 0.3, 0.1), [0.9, 0.8, 0.7, 0.6, 0.5], [0.1, 0.2]
    good, bad = AttackedModel(0.1, 0.5, 0.2), AttackedModel(0.6, 0.7, 0.6)
    line = meta_line("m", with_P, without_N, [good, bad], retain)
    assert (line.n_relearn, line.relearn, line.quantize) == (1, pytest.approx(0.5), pytest.approx(0.5))
    none = meta_line("m", with_P, without_N, [bad], retain)
    assert math.isnan(none.overall) and none.note == "by this metric no unlearned model has lost the knowledge"


def test_robustness_is_the_published_mean_of_the_published_r_and_q() -> None:
    """The table of the authors of arXiv:2605.24614 (docs/data/meta_eval.json, commit 44b0919), rounded to 4 digits."""
    for r, q, both in [(0.6624, 0.9743, 0.7886), (0.1344, 0.9922, 0.2367), (0.9574, 0.9745, 0.9659)]:
        assert harmonic([r, q]) == pytest.approx(both, abs=1e-4)


def test_the_means_of_a_metric_by_hand() -> None:
    assert harmonic([0.5, 1.0]) == pytest.approx(2 / 3) and harmonic([0.0, 1.0]) == 0.0
    assert math.isnan(harmonic([NAN, 1.0]))
    retain = AttackedModel(0.1, 0.3, 0.1)
    unlearned = [AttackedModel(0.1, 0.5, 0.2), AttackedModel(0.1, 0.2, 0.1)]  # R: 0.5 and 1; Q: 0.5 and 1
    line = meta_line("m", [0.9, 0.8, 0.7, 0.6, 0.3], [0.1, 0.3, NAN], unlearned, retain)
    # 9.5 of 10 pairs are in order: one ties
    assert line.faithfulness == pytest.approx(0.95) and (line.n_p, line.n_n, line.known) == (5, 2, "high")
    assert 0.5 < line.low <= line.faithfulness <= line.high
    assert (line.relearn, line.quantize, line.robustness) == pytest.approx((0.75, 0.75, 0.75))
    assert line.overall == pytest.approx(2 / (1 / 0.75 + 1 / 0.95))
    turned = meta_line("m", [0.1, 0.2], [0.9, 0.8], [], retain)
    assert (turned.faithfulness, turned.known, turned.low) == (1.0, "low", 1.0)
    assert math.isnan(turned.overall) and "utility floor" in turned.note
    blind = meta_line("m", [0.1, 0.9], [0.1, 0.9], unlearned, retain)
    assert (
        (blind.faithfulness, blind.known) == (0.5, "")
        and math.isnan(blind.overall)
        and "does not separate" in blind.note
    )
    few = meta_line("m", [0.1], [0.9, 0.8], unlearned, retain)
    assert math.isnan(few.faithfulness) and few.note.startswith("1 models with and 2 without")
    assert to_csv([few]).splitlines()[1].startswith("m,,,")
    text = to_markdown([few, line], "about").splitlines()
    assert text[6].startswith("| m | 0.950 [") and text[7].startswith("| m | \u2013 |")
    knowing = meta_line("m", [0.9, 0.8], [0.1, 0.2], [AttackedModel(0.9, 0.9, 0.9)], retain)
    assert math.isnan(knowing.relearn) and "high; by this metric no unlearned model" in to_markdown([knowing], "about")


WORLD = {"authors": 6, "questions_per_author": 3, "forget_fraction": 0.34, "facts": 4, "holdout_authors": 1}


def tree(**more: Any) -> dict[str, Any]:
    own = {"name": "t", "data": {"world": WORLD}, "model": {"preset": "llama-64k"}, "methods": [{"trainer": "NPO"}]}
    return {**own, **more}


def test_the_pools_and_what_is_done_to_unlearned_models() -> None:
    meta = {"variations": [{"num_train_epochs": 3}], "bits": 8}
    graph = build_graph(decode_study(tree(meta=meta, seeds={"train": [0, 1]}))).meta
    assert graph is not None
    roles = list(graph.parents)
    assert [r for r in roles if r.startswith("full")] == [f"full {i}" for i in range(4)]
    assert [r for r in roles if r.startswith("retain")] == [f"retain {i}" for i in range(3)]  # the control is out
    names = {job.label for job in in_order([graph])}
    assert {"NPO-s0 relearned", "NPO-s1 int8", "retain-s0 relearned", "retain-v1-s1"} <= names
    plain = {j.key for j in in_order(build_graph(decode_study(tree(seeds={"train": [0, 1]}))).jobs)}
    both = build_graph(decode_study(tree(meta=meta, seeds={"train": [0, 1]})))
    assert plain < {j.key for j in in_order(both.jobs)}  # nothing of the study itself is done again


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"meta": {}}, "meta: 1 retain models"),
        ({"meta": {"variations": [{"epochs": 1}, {"num_train_epochs": 1}]}}, "meta.variations[0].epochs: unknown key"),
        (
            {"meta": {"variations": [{"seed": 1}, {"num_train_epochs": 1}]}},
            "meta.variations[0].seed: seeds are an axis",
        ),
        (
            {"meta": {"variations": [{"num_train_epochs": 1}, {"learning_rate": 1.0}, {}]}},
            "meta.variations[2]: trains as",
        ),
        ({"meta": {"relearn": {"lr": 1}}, "seeds": {"train": [0, 1, 2]}}, "meta.relearn.lr: unknown key"),
        ({"meta": {"bits": 3}}, "meta.bits"),
        ({"meta": {"utility_floor": 2}}, "meta.utility_floor: must be 0 to 1"),
        ({"meta": {"variations": [{}, {}]}, "requests": 2}, "meta: not together with `requests`"),
        ({"meta": {"variations": [{}, {}]}, "grid": {"train.num_train_epochs": [1]}}, "meta: not together with `grid`"),
    ],
)
def test_what_cannot_be_compared_is_told_before_anything_runs(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study_graph(tree(**more))
    assert message in str(caught.value) and "\n" not in str(caught.value)


SMALL = ("data.world.facts=2", "data.world.questions_per_author=2", "eval.generation.max_new_tokens=2")


@pytest.mark.slow
def test_a_study_writes_the_table(micro: list[str], tmp_path: Path) -> None:
    words = [f"paths.store={tmp_path}/store", f"paths.output_dir={tmp_path}/out", "train.num_train_epochs=1", *SMALL]
    meta = "meta={variations: [{num_train_epochs: 2}, {learning_rate: 1.0e-3}], utility_floor: 0}"
    result = load_study([*micro, *words, "methods=[{trainer: GradDiff}]", meta]).run()
    assert not result.failures
    lines = {line["metric"]: line for line in csv.DictReader((result.folder / "meta.csv").read_text().splitlines())}
    assert {"forget_Q_A_Prob", "extraction_strength", "forget_truth_ratio", "mia_loss"} <= set(lines)
    assert not [name for name in lines if name.startswith(("retain_", "ra_", "wf_"))]
    prob = lines["forget_Q_A_Prob"]
    assert 0.5 <= float(prob["faithfulness"]) <= 1 and (prob["n_p"], prob["n_n"]) == ("3", "2")
    output = (result.folder / "meta.md").read_text()
    assert "| forget_Q_A_Prob |" in output
    page, about = (result.folder / "report.html").read_text(), output.splitlines()[2]
    assert '<a href="#h-meta">' in page and f"<p>{about}</p>" in html.unescape(page) and "separating 3 models" in about
    assert '<span class="piece">forget_</span><span class="piece">Q_</span>' in page


def test_the_table_reads_back() -> None:
    lines = [MetaLine("a", 1.0, 0.75, 1.0, "high", 0.1, NAN, NAN, NAN, 3, 2, 1, 0, 'why, "so"\n'), MetaLine("b")]
    assert repr(from_csv(to_csv(lines))) == repr(lines)
