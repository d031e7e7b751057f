"""The leaderboard: methods by studies, with verdicts, intervals and cost; each cell leads to its report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from expunge.evaluation.compare import PairedDifference, compare, corrected
from expunge.metrics.api import MetricResult, shared_statistic
from expunge.metrics.verdict import Verdict, utility_left
from expunge.report.differences import cells_of
from expunge.report.grid_page import over_seeds
from expunge.report.model import ReportModel, ReportRun
from expunge.report.page import environment
from expunge.report.table import ABSENT, format_value
from expunge.report.verdicts import RANKING, judgement

ABOUT = (
    "A column is a study, a row a method. A cell has the answer to `forgot?` and the share of the target model's "
    "utility that is left, each with its 95 % interval over rows; below it the utility itself, whose interval is over "
    "seeds if there are several (Student's t). Studies differ in model, data and budget, so compare within a column. "
    "{ranking} The paired columns compare two models row by row, a row's values averaged over seeds. They show the "
    "mean difference, its bootstrap interval over rows, and p of a permutation test, corrected for all tests of the "
    "table (Holm)."
)


@dataclass(frozen=True)
class LeaderboardStudy:
    """A study on the leaderboard. link: the address of its report, empty if it has none. command: repeats the study."""

    name: str
    report: ReportModel
    link: str
    command: str


@dataclass(frozen=True)
class PairedCell:
    """A model's difference from another one on the same rows; without one, `evidence` is the reason."""

    difference: str
    evidence: str


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
    """A study with its methods in the order of their ranks. note: why there is no method.

    paired: of each method, its differences from the control and from the method with the first rank, `best`.
    """

    study: LeaderboardStudy
    cells: dict[str, LeaderboardCell]
    metric: str
    note: str = ""
    control: str = ""
    best: str = ""
    paired: Mapping[str, tuple[PairedCell, PairedCell]] = field(default_factory=dict)


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
    sides = {role: [run for run in study.report.runs if run.role == role] for role in ("retain", "full")}
    role = next((role for role, runs in sides.items() if runs), "")
    control = {"retain": "the retain model", "full": "the target model"}.get(role, "")
    best = next((name for name, cell in cells.items() if not cell.broken), "")
    others = (sides.get(role, []), groups.get(best, []))
    paired = _paired({name: groups[name] for name in cells}, others, metric)
    return LeaderboardColumn(study, cells, metric, control=control, best=best, paired=paired)


def _paired(
    groups: Mapping[str, Sequence[ReportRun]], others: tuple[Sequence[ReportRun], Sequence[ReportRun]], metric: str
) -> dict[str, tuple[PairedCell, PairedCell]]:
    """Return each method's differences from the models of `others`, corrected for all tests together."""
    pairs: list[PairedDifference] = []
    places: dict[tuple[str, int], int | str] = {}  # the number of the pair, or why there is none
    for name, group in groups.items():
        for side, other in enumerate(others):
            reason = _unpaired(group, other, metric)
            if not reason:
                results = ({metric: _over_seeds(runs, metric)} for runs in (other, group))
                pairs.append(compare(*results)[metric])
                reason = "" if pairs[-1].n else pairs.pop().note
            places[name, side] = reason or len(pairs) - 1
    texts = [cells_of(d) for d in corrected(pairs)]

    def cell(place: int | str) -> PairedCell:
        if isinstance(place, str):
            return PairedCell(ABSENT, place)
        _, _, difference, interval, _, p_holm, n = texts[place]
        return PairedCell(difference, f"{interval} p (Holm) {p_holm}, {n} rows".strip())

    return {name: (cell(places[name, 0]), cell(places[name, 1])) for name in groups}


def _unpaired(group: Sequence[ReportRun], other: Sequence[ReportRun], metric: str) -> str:
    """Return why two groups of seeds cannot be compared row by row; empty if they can."""
    if not metric:
        return "judged by audits"
    if not other:
        return "no such model"
    if group is other:
        return "itself"
    results = [run.results.get(metric) for run in (*group, *other)]
    if not all(result is not None and result.per_row for result in results):
        return "no values by row"
    rows = [set(result.per_row) for result in results if result is not None]
    same_cell = len({run.cell for run in (*group, *other)}) == 1
    return "" if same_cell and all(one == rows[0] for one in rows) else "other rows"


def _over_seeds(group: Sequence[ReportRun], metric: str) -> MetricResult:
    """Return a metric with the mean over seeds of each row's value."""
    results = [run.results[metric] for run in group]
    if len(results) == 1:
        return results[0]
    name = shared_statistic(results)
    if name is None:
        return MetricResult(math.nan, reason="not a mean over rows")
    columns = [result.by_row[name] for result in results]
    values = {row: math.fsum(column[row] for column in columns) / len(columns) for row in columns[0]}
    numbers = [value for value in values.values() if not math.isnan(value)]
    mean = math.fsum(numbers) / len(numbers) if numbers else math.nan
    return MetricResult(mean, per_row={row: {name: value} for row, value in values.items()})


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
