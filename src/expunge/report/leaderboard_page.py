"""The leaderboard: methods by studies, with verdicts, intervals and cost; each cell leads to its report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from expunge.metrics.verdict import Verdict, utility_left
from expunge.report.grid_page import over_seeds
from expunge.report.model import ReportModel, ReportRun
from expunge.report.page import environment
from expunge.report.table import ABSENT, format_value
from expunge.report.verdicts import RANKING, judgement

ABOUT = (
    "A column is a study, a row a method. A cell has the answer to `forgot?` and the share of the target model's "
    "utility that is left, each with its 95 % interval over rows; below it the utility itself, whose interval is over "
    "seeds if there are several (Student's t). Studies differ in model, data and budget, so compare within a column. "
    "{ranking}"
)


@dataclass(frozen=True)
class LeaderboardStudy:
    """A study on the leaderboard. link: the address of its report, empty if it has none. command: repeats the study."""

    name: str
    report: ReportModel
    link: str
    command: str


@dataclass(frozen=True)
class LeaderboardCell:
    """A method in one study.

    number, interval: of the metric behind `forgot?`. utility: the share that is left; value: the utility itself.
    broken: why it has no rank.
    """

    rank: str
    forgot: str
    number: str
    interval: str
    robust: str
    detectable: str
    utility: str
    value: str
    seeds: int
    cost: str
    broken: str


@dataclass(frozen=True)
class LeaderboardColumn:
    """A study with its methods in the order of their ranks. note: why there is no method."""

    study: LeaderboardStudy
    cells: dict[str, LeaderboardCell]
    metric: str
    note: str = ""


def leaderboard_page(studies: Sequence[LeaderboardStudy], command: str) -> str:
    """Return the page of these studies."""
    columns = [leaderboard_column(study) for study in studies]
    methods = list(dict.fromkeys(label for column in columns for label in column.cells))
    page = environment().get_template("leaderboard.html")
    about = ABOUT.format(ranking=RANKING)
    return page.render(columns=columns, methods=methods, about=about, command=command, absent=ABSENT)


def leaderboard_column(study: LeaderboardStudy) -> LeaderboardColumn:
    """Return the methods of a study. A study without a verdict (stories, no unlearned model) has a note instead."""
    result = judgement(study.report)
    if result is None:
        return LeaderboardColumn(study, {}, "", "no unlearned model with a verdict")
    groups = {group[0].label: group for group in study.report.groups() if group[0].role == "unlearn"}
    placed = zip(result.places, result.all, strict=True)
    cells = {v.model: _cell(v, groups[v.model], study.report, place) for place, v in placed}
    metric = next((v.forgot.metric for v in result.all if v.forgot.metric), "")
    return LeaderboardColumn(study, cells, metric)


def _cell(verdict: Verdict, group: Sequence[ReportRun], report: ReportModel, rank: str) -> LeaderboardCell:
    forgot, utility = verdict.forgot, verdict.kept
    _, value, interval = over_seeds([run.results.get(report.utility) for run in group])
    times = [run.wall_s for run in group if run.wall_s is not None]
    return LeaderboardCell(
        rank=rank,
        forgot=forgot.word,
        number=_number(forgot.number),
        interval=f"[{forgot.low:.3f}, {forgot.high:.3f}]" if math.isfinite(forgot.low + forgot.high) else "",
        robust=verdict.robust.word,
        detectable=verdict.detectable.word,
        utility=utility_left(utility) or ABSENT,
        value=f"{value} {interval}".rstrip(),
        seeds=len(group),
        cost=format_value(math.fsum(times) / len(times), "time") if times else ABSENT,
        broken=verdict.broken,
    )


def _number(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else ABSENT
