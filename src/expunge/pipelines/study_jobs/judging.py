"""`judge`: a judge's scores of generated texts in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from expunge.core.decode import decode
from expunge.core.errors import ConfigError, DataError, kind_of, nearest
from expunge.core.records import GeneratedText, text_records
from expunge.evaluation.result import EvalResult
from expunge.judges.api import Judge, JudgementTable, JudgeReply, judge_texts
from expunge.judges.rules import RuleJudge

Scores = Callable[[Sequence[GeneratedText]], Sequence[tuple[float, str | None]]]
TEXT_COLUMNS = ("generation", "text")


def judge(judge: Judge | Mapping[str, Any], texts: Any, *, examples: str = "forget_eval") -> JudgementTable:
    """Score generated texts with a judge.

    Args:
        judge: A judge object (`RuleJudge`, `HttpJudge`, a trained classifier, or your own with `name` and `judge`); or
            `{kind: settings}` as in a study's `judgements`, of the kinds rules, http, model and classifier; or the
            settings of a `RuleJudge`.
        texts: An `EvalResult`, whose generations are scored; or texts, dicts or a DataFrame with `generation` (or
            `text`) and, where known, `prompt`, `reference` and `row_id`.
        examples: Which generations of an `EvalResult` are scored.

    Returns:
        The mean score over rows with its 95 % interval, and a line per text.

    Raises:
        ConfigError: If the settings of the judge are wrong. DataError: If there are no texts.
    """
    decoded = _judge_of(judge) if isinstance(judge, Mapping) else judge
    if not hasattr(decoded, "judge"):
        raise ConfigError(f"judge: expected a judge or its settings, got {kind_of(judge)}")
    return judge_texts(decoded, _generations(texts, examples))


def _judge_of(settings: Mapping[str, Any]) -> Judge:
    """Return the judge of `{kind: settings}`, or of the settings of a RuleJudge. Raises ConfigError."""
    from expunge.judges.make import KINDS, choose_judge

    kinds = [key for key, value in settings.items() if key in KINDS and isinstance(value, str | Mapping)]
    return choose_judge(settings, "judge").make() if kinds else decode(RuleJudge, settings, where="judge")


def generation_judge(judge: Judge | Mapping[str, Any], where: str = "judge") -> Scores:
    """Return the function that scores generations, of a judge or its settings. Raises ConfigError."""
    from expunge.judges.make import choose_judge

    decoded = choose_judge(judge, where).make() if isinstance(judge, Mapping) else judge

    def scores(texts: Sequence[GeneratedText]) -> list[tuple[float, str | None]]:
        replies = [JudgeReply(t.generation, t.prompt, t.reference) for t in texts]
        return [(verdict.score, verdict.reason) for verdict in decoded.judge(replies)]

    return scores


def _generations(texts: Any, examples: str) -> list[GeneratedText]:
    if isinstance(texts, EvalResult):
        kinds = [name for name in texts.records if name.endswith(".texts")]
        if f"{examples}.texts" not in texts.records:
            known = [name.removesuffix(".texts") for name in kinds]
            raise DataError(f"judge: the result has no generations of {examples!r}{nearest(examples, known)}")
        return text_records(texts.records[f"{examples}.texts"])
    if hasattr(texts, "to_dict") and hasattr(texts, "columns"):
        texts = texts.to_dict("records")
    if isinstance(texts, str | Mapping) or not isinstance(texts, Sequence) or not len(texts):
        raise DataError("judge: expected an EvalResult, or a list of texts or dicts with at least one entry")
    return [_generation(i, one) for i, one in enumerate(texts)]


def _generation(i: int, one: Any) -> GeneratedText:
    if not isinstance(one, str | Mapping):
        raise DataError(f"judge: text {i}: expected a text or a dict, got {kind_of(one)}")
    record = {"generation": one} if isinstance(one, str) else dict(one)
    column = next((name for name in TEXT_COLUMNS if name in record), None)
    if column is None or not isinstance(record[column], str):
        raise DataError(f"judge: text {i}: no column 'generation' or 'text' with a text")
    values = [str(record.get(name) or "") for name in ("prompt", column, "reference")]
    return GeneratedText(int(record.get("row_id", i)), i, values[0], values[1], values[2], 0, True)
