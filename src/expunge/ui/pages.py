"""The pages of the workspace, as HTML and JSON. All texts of files are escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from importlib.resources import files
from typing import Any
from urllib.parse import urlencode

from jinja2 import ChoiceLoader, PackageLoader, Template

from expunge.core.errors import ConfigError
from expunge.evaluation.compare import compare
from expunge.report.compare_page import ComparedPair, Results, compare_page, paired
from expunge.report.display import duration
from expunge.report.page import environment
from expunge.ui.rows import rows_view
from expunge.ui.workspace import Model, Workspace, results_of

WHOLE = "study-"  # before the id of a study in a comparison: all its models
KINDS = (
    ("erasure", "Erasure reports"),
    ("audit", "Audits of given models"),
    ("inspect", "Models by layer"),
    ("comparison", "Comparisons"),
)
GONE = "this model is not in the workspace any more; go back and choose again"
STATES = ("running", "done", "failed", "stopped", "damaged")
MEANINGS = {
    "running": "jobs are running now",
    "done": "all jobs have ended well",
    "failed": "some jobs have failed; the report has the others",
    "stopped": "the run has ended before its last job; the same command continues it",
    "damaged": "a file is not as it was written",
}


def home(workspace: Workspace) -> str:
    """Return the start page."""
    studies = workspace.studies
    groups: dict[str, list[Model]] = {}
    for model in workspace.models:
        groups.setdefault(model.group, []).append(model)
    whole = [study for study in studies if len(study.models) > 1]
    return _template("workspace.html").render(
        title="Workspace",
        workspace=workspace,
        runs=runs(workspace),
        studies=studies,
        states=[state for state in STATES if any(study.state == state for study in studies)],
        meanings=MEANINGS,
        methods=sorted({method for study in studies for method in study.methods}),
        whole=[(WHOLE + study.id, study.name) for study in whole],
        groups=groups,
        sections=[(title, [p for p in workspace.pages if p.kind == kind]) for kind, title in KINDS],
        damaged=sum(len(store.damaged) for store in workspace.stores),
    )


def message(title: str, text: str) -> str:
    """Return a page with one message."""
    return _template("message.html").render(title=title, text=text)


def runs(workspace: Workspace) -> list[dict[str, Any]]:
    """Return the running studies as plain values: texts and numbers to show."""
    shown = []
    for study in workspace.studies:
        note = study.note
        if study.state != "running" or note is None:
            continue
        jobs = [
            {"name": name, "done": done, "total": total, "time": duration(ran)}
            for name, done, total, ran in note.running
        ]
        shown.append(
            {
                "id": study.id,
                "name": study.name,
                "done": note.done,
                "total": note.total,
                "text": f"{note.done} of {note.total} jobs{f', {note.failed} failed' if note.failed else ''}, about "
                f"{duration(note.left_s)} left",
                "jobs": jobs,
            }
        )
    return shown


def live(workspace: Workspace) -> str:
    """Return the running studies as JSON, with the mark of the whole workspace."""
    return json.dumps({"mark": workspace.mark, "runs": runs(workspace)})


def comparison(workspace: Workspace, first: str, second: str) -> str:
    """Return the page that compares two models, or all models of two studies.

    Raises:
        ConfigError: If there is no such model, or the two have nothing in common.
        JobError, DataError: If a file is damaged.
    """
    a, a_name = _side(workspace, first)
    b, b_name = _side(workspace, second)
    pairs = [
        ComparedPair(name, one, other, a[one], b[other], compare(a[one], b[other]))
        for name, one, other in paired(a, b, a_name, b_name)
    ]
    return compare_page(pairs, {}, workspace=(a_name, b_name))


def rows(workspace: Workspace, first: str, second: str, name: str, words: str, page: str) -> str:
    """Return a page with the answers of two models to the same rows.

    Raises:
        ConfigError: There is no such model or set, or the two have no rows in common.
        JobError, DataError: A file is damaged.
    """
    a, b = _model(workspace, first), _model(workspace, second)
    view = rows_view(a, b, name, words, int(page) if page.isdecimal() and len(page) < 9 else 0)
    query = urlencode({"a": a.id, "b": b.id, "set": view.set, "q": view.words})
    return _template("rows.html").render(
        title="Rows before and after",
        view=view,
        a=a.id,
        b=b.id,
        first=f"{a.group}: {a.name}",
        second=f"{b.group}: {b.name}",
        address=f"/rows?{query}",
    )


def _model(workspace: Workspace, name: str) -> Model:
    """Return a single model by its id. Raises ConfigError."""
    if name.startswith(WHOLE):
        raise ConfigError("rows are those of two models; go back and choose models, not whole studies")
    for model in workspace.models:
        if name == model.id:
            return model
    raise ConfigError(GONE)


def _side(workspace: Workspace, name: str) -> tuple[Mapping[str, Results], str]:
    """Return the results by the name of a model, and the name of the study or model."""
    for study in workspace.studies:
        if name == WHOLE + study.id:
            return {model.name: results_of(model) for model in study.models}, study.name
    for model in workspace.models:
        if name == model.id:
            return {model.name: results_of(model)}, f"{model.group}: {model.name}"
    raise ConfigError(GONE)


def style() -> str:
    """Return the style sheet: that of the reports, and the workspace's own rules."""
    own = files("expunge.ui").joinpath("workspace.css").read_text(encoding="utf-8")
    return files("expunge.report").joinpath("page.css").read_text(encoding="utf-8") + own


def script() -> str:
    """Return the script of the start page."""
    return files("expunge.ui").joinpath("workspace.js").read_text(encoding="utf-8")


def _template(name: str) -> Template:
    templates = environment()
    templates.loader = ChoiceLoader([PackageLoader("expunge", "ui"), PackageLoader("expunge", "report")])
    templates.filters["when"] = _when
    return templates.get_template(name)


def _when(seconds: float) -> str:
    """Return a time as text, in the zone of this machine."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")
