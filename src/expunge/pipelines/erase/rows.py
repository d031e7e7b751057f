"""The rows of an erasure: for training and for measurement, after the preflight."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from expunge.data.encoder import Encoder
from expunge.data.examples import ANSWER, Example, ExampleSet
from expunge.data.variants import variant_of
from expunge.metrics.api import Metric
from expunge.pipelines.erase.preflight import ANCHOR_SHARE, ANSWERABLE, Preflight
from expunge.pipelines.erase.wordings import MEASURED, TRAINED, fitting
from expunge.pipelines.study.task_config import TaskConfig

KNOWN = "forget_Q_A_Prob"  # of each row the more likely wording of the answer
CONTENT, AS_ASKED = "forget_content", "content_as_asked"
LISTED = "listed"  # the answer as the user's file has it
OWN_PROB, LISTED_PROB = "own_Q_A_Prob", "listed_Q_A_Prob"
ANCHOR = "anchor"
NEAR, NEAR_PROB = "near", "near_Q_A_Prob"
MOST_FACTS = 64  # of the package, next to the rows near the rows to forget


def trained_rows(forget: ExampleSet, preflight: Preflight, only: Sequence[int] | None = None) -> ExampleSet:
    """Return the rows to train on: of each known row its wordings of the question, with the model's own answer.

    The listed answer is trained on if the model has no wording of its own, or gives the listed one as well. To make an
    answer less likely that the model never gives changes other short answers.

    Args:
        forget: The rows to forget.
        preflight: The model's knowledge of the rows.
        only: Positions of the rows to use. None: all known rows.
    """
    used = set(preflight.known if only is None else only)
    pairs: list[tuple[Example, str, str]] = []
    for known in preflight.rows:
        if known.row not in used:
            continue
        row = forget[known.row]
        wordings = known.trained if forget.form == "qa" else (0,)
        for k in wordings:
            question = TRAINED[k].replace("{}", row.question) if row.question else row.question
            own = known.own or row.answer
            listed = [row.answer] if k == 0 and known.own and known.probability >= ANSWERABLE else []
            pairs += [(row, question, answer) for answer in (*listed, own)]
    rows = tuple(
        Example(i, question, {**row.answers, ANSWER: answer}, row.paraphrased_question, row.meta)
        for i, (row, question, answer) in enumerate(pairs)
    )
    return dataclasses.replace(forget, rows=rows)


def measured_rows(forget: ExampleSet, preflight: Preflight) -> ExampleSet:
    """Return the rows to measure: the answer in the model's own wording, and the listed one as LISTED."""
    own = preflight.reworded
    rows = tuple(
        dataclasses.replace(r, answers={**r.answers, ANSWER: own.get(r.row_id, r.answer), LISTED: r.answer})
        for r in forget
    )
    return dataclasses.replace(forget, rows=rows)


def both_wordings() -> list[Metric]:
    """Return the probability of the answers, of each row in the more likely one of its two wordings."""
    own = Metric(OWN_PROB, "probability", rows="forget_eval", reads={"tokens": (ANSWER,)})
    listed = Metric(LISTED_PROB, "probability", rows="forget_eval", reads={"tokens": (LISTED,)})
    parents = {"own": OWN_PROB, "listed": LISTED_PROB}
    return [own, listed, Metric(KNOWN, "worst_case", parents=parents, args={"statistic": "prob"})]


def asked_again(forget: ExampleSet, encoder: Encoder) -> tuple[dict[str, ExampleSet], list[Metric]]:
    """Return the rows in other wordings of the question, and the metric of content in one of the greedy texts."""
    reads = {"texts": (LISTED,)}
    sets = {}
    if forget.form == "qa":
        variants = {f"forget_{way}": variant_of(forget, way) for way in MEASURED}
        whole = {n: rows for n, rows in variants.items() if len(fitting(encoder, rows)) == len(rows)}
        sets = {name: dataclasses.replace(rows, name=name) for name, rows in whole.items()}
    metrics = [Metric(AS_ASKED, "answer_in_text", rows="forget_eval", reads=reads)]
    metrics += [Metric(f"content_{name}", "answer_in_text", rows=name, reads=reads) for name in sets]
    if not sets:
        return {}, [dataclasses.replace(metrics[0], name=CONTENT)]
    parents = {metric.name: metric.name for metric in metrics}
    return sets, [*metrics, Metric(CONTENT, "worst_case", parents=parents, args={"statistic": "score"})]


def asked_rows(retain: ExampleSet, task: TaskConfig) -> ExampleSet:
    """Return the rows to keep that are used: all of the user's, or the first facts of the package."""
    return retain if task.retain else dataclasses.replace(retain, rows=retain.rows[:MOST_FACTS])


def rows_to_keep(retain: ExampleSet, task: TaskConfig, preflight: Preflight) -> ExampleSet:
    """Return the rows to keep in the model's own wording.

    Without a file of them also the rows near the forget rows, and everyday questions. The package's facts that the
    model does not know are left out, unless too few are left.
    """
    rows = [
        dataclasses.replace(r, answers={**r.answers, ANSWER: preflight.kept.get(str(r.row_id), r.answer)})
        for r in asked_rows(retain, task)
    ]
    if task.retain is None:
        known = [row for row in rows if row.row_id not in preflight.unknown_kept]
        near = [Example(0, question, {ANSWER: answer}, meta={NEAR: True}) for question, answer in preflight.near]
        facts = known if len(near) + len(known) >= len(rows) // 4 else rows
        rows = [*near, *facts, *_everyday(preflight)]
    return dataclasses.replace(retain, rows=tuple(dataclasses.replace(row, row_id=i) for i, row in enumerate(rows)))


def _everyday(preflight: Preflight) -> list[Example]:
    """Return everyday questions with the model's own answers, which keep its general ability."""
    return [Example(0, question, {ANSWER: answer}, meta={ANCHOR: True}) for question, answer in preflight.anchors]


def with_anchors(retain: ExampleSet, task: TaskConfig, preflight: Preflight) -> ExampleSet:
    """Return the user's rows to keep for training with everyday questions; other rows contain them already."""
    if task.retain is None:
        return retain
    most = max(int(ANCHOR_SHARE * len(retain)), 1)
    rows = (*retain.rows, *_everyday(preflight)[:most])
    return dataclasses.replace(retain, rows=tuple(dataclasses.replace(row, row_id=i) for i, row in enumerate(rows)))


def counted(retain: ExampleSet) -> str:
    """Return the number of rows to keep for training in words, with that of the everyday questions among them."""
    n = sum(bool(row.meta.get(ANCHOR)) for row in retain)
    return f"{len(retain) - n} to train on" + (f" with {n} everyday questions" if n else "")


def near_panel() -> list[Metric]:
    """Return the probability of the rows near the rows to forget."""
    return [Metric(NEAR_PROB, "probability", rows="retain_eval", reads={"tokens": (ANSWER,)}, where={NEAR: True})]
