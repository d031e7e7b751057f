"""The report as text: markdown, CSV, LaTeX, and a table for the terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from expunge.report.audits import ABOUT, HEADS, NUMBERS, audit_rows
from expunge.report.differences import differences_section
from expunge.report.markup import cell_text, markdown_section, markdown_table
from expunge.report.markup import markdown_text as _md
from expunge.report.model import ReportModel
from expunge.report.overview import LEGEND, AuditSummary, overview
from expunge.report.protocol import Protocol
from expunge.report.reading import cautions, floor_line, reading
from expunge.report.section import GridSection, Section
from expunge.report.semeval import score_section
from expunge.report.stories import ABOUT as RECOVERY_ABOUT
from expunge.report.stories import heads as recovery_heads
from expunge.report.stories import recovery_rows
from expunge.report.table import BELOW_FLOOR, ReportTable, TableRow, table
from expunge.report.verdicts import RANK_HEADS, RANKING, answer_lines, folded, judgement

_GAP = 2  # spaces that rich puts around a column of this style


def _marked(row: TableRow) -> str:
    """Return the name of a row for narrow columns, with a mark that refers to a line below."""
    return f"{row.name} !" if row.flag else row.name


def to_markdown(model: ReportModel) -> str:
    """Return the results as markdown: table, footnotes, how to read them, notes."""
    results = table(model)
    heads = ["run", *(c.head for c in results.columns)]
    lines = [f"# {_md(model.title)}", "", f"Study {_md(model.study)}, {_md(model.created)}. {_md(_sets(model))}", ""]
    lines += _judgement(model)
    lines += [f"    {line}" for line in model.command.splitlines()] + [""]
    rows = [
        [
            _md(f"{row.name} ({row.flag})" if row.flag else row.name),
            *(cell.text + (f"[^{cell.note}]" if cell.note else "") for cell in row.cells),
        ]
        for row in results.rows
    ]
    lines += markdown_table(heads, "l" + "r" * len(results.columns), rows)
    lines += ["", *(f"[^{k}]: {_md(reason)}" for k, reason in enumerate(results.footnotes, 1)), ""]
    lines += _recovery(model)
    for part in sections(model):
        lines += _tables(part)
    lines += markdown_section("How to read this", reading(model))
    lines += markdown_section("Be careful", cautions(model))
    lines += _audits(model)
    lines += markdown_section("Without a result", tuple(f"{m.label}: {m.reason}" for m in model.missing))
    lines += markdown_section("Notes", model.notes)
    return "\n".join(lines).rstrip() + "\n"


def _judgement(model: ReportModel) -> list[str]:
    """Return the verdicts: the choice, the ranked table, and each model's answers."""
    judged = judgement(model)
    if judged is None:
        return []
    lines = ["## Verdict", "", f"**{_md(judged.choice)}**", ""]
    lines += markdown_table(RANK_HEADS, "rllllrl", [[_md(cell) for cell in row] for row in judged.table])
    lines += ["", RANKING, ""]
    for verdict in judged.all:
        lines += [f"### {_md(verdict.model)}", ""]
        lines += answer_lines(verdict)
    return lines


def _recovery(model: ReportModel) -> list[str]:
    protocol = model.protocol
    if protocol is None:
        return []
    names = recovery_heads(protocol)
    rows = [[_md(cell) for cell in row] for row in recovery_rows(protocol)]
    lines = [f"## Deleted and recovered: {_md(protocol.feature)}", "", RECOVERY_ABOUT, ""]
    lines += markdown_table(names, "l" + "r" * (len(names) - 1), rows)
    return [*lines, "", *(f"- {_md(line)}" for line in protocol.findings), ""]


def sections(model: ReportModel) -> tuple[Section, ...]:
    """Return the sections of tables of this report."""
    differences = None if model.protocol is not None else differences_section({"": model})
    return tuple(part for part in (score_section(model), *model.sections, differences) if part is not None)


def _tables(part: Section) -> list[str]:
    lines = [f"## {_md(part.title)}", "", _md(part.about), ""]
    for grid in part.grids:
        lines += [_md(grid.caption), "", *_grid(grid), ""]
    return lines


def _grid(grid: GridSection) -> list[str]:
    sides = "".join("l" if grid.leftward(head) else "r" for head in grid.heads)
    heads, *rows = ([_md(cell) for cell in row] for row in (grid.heads, *grid.rows))
    return markdown_table(heads, sides, rows)


def _audits(model: ReportModel) -> list[str]:
    if not model.audits:
        return []
    seen = overview(model)
    lines = ["## Audits: has it really forgotten?", "", LEGEND, ""]
    heads = ["model", *(_md(": ".join(column)) for column in seen.columns)]
    summaries = [
        [
            _md(f"{label} ({seen.flags[label]})" if label in seen.flags else label),
            *(_md(_verdicts(c)) + _notes(c) for c in cells),
        ]
        for label, cells in seen.rows
    ]
    lines += markdown_table(heads, "l" * len(heads), summaries)
    lines += ["", *(f"[^audit-{k}]: {_md(reason)}" for k, reason in enumerate(seen.footnotes, 1)), ""]
    lines += ["<details>", "<summary>Every finding with its interval</summary>", "", ABOUT, ""]
    sides = "".join("r" if head in NUMBERS else "l" for head in HEADS)
    for audit, rows in audit_rows(model).items():
        lines += [f"### {_md(audit)}", ""]
        lines += [*markdown_table(HEADS, sides, [[_md(cell) for cell in row] for row in rows]), ""]
    return [*lines, "</details>", ""]


def _verdicts(cell: AuditSummary) -> str:
    return " / ".join(str(verdict) for verdict in cell.verdicts)


def _notes(cell: AuditSummary) -> str:
    return "".join(f"[^audit-{k}]" for k in cell.notes)


def _sets(model: ReportModel) -> str:
    return "Rows: " + ", ".join(f"{name} {n}" for name, n in model.sets.items()) + "." if model.sets else ""


def to_csv(model: ReportModel) -> str:
    """Return the table as CSV with full precision, a line per row; a missing value is an empty field.

    The retrain-seed range of the retain models is a line of kind "null_low" and one of kind "null_high". If a label has
    several seeds, a line of kind "mean" and a line of kind "sd" follow. The mean p-value is the geometric one;
    `log10_forget_quality` contains the mean and the sd of log10 p. `notes` explains missing values.
    """
    results = table(model)
    heads = ["kind", "name", "label", "role", "method", "settings", "seed", "n", "flag"]
    for column in results.columns:
        heads += [column.key, f"log10_{column.key}"] if column.kind == "p" else [column.key]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*heads, "notes"])
    for row in results.rows:
        if row.kind == "band":
            writer.writerow(_csv_line(results, row, "null_low"))
            writer.writerow(_csv_line(results, row, "null_high"))
            continue
        writer.writerow(_csv_line(results, row, row.kind))
        if row.kind == "mean":
            writer.writerow(_csv_line(results, row, "sd"))
    return out.getvalue()


def _csv_line(results: ReportTable, row: TableRow, kind: str) -> list[str]:
    run = row.run
    seed = "" if run is None or run.seed is None else str(run.seed)
    about = [
        kind,
        cell_text(row.name),
        cell_text(row.label),
        row.role,
        cell_text((run and run.method) or ""),
        cell_text(run.settings if run else ""),
        cell_text(seed),
        str(row.n),
    ]
    line = [*about, row.flag or ""]
    for column, cell in zip(results.columns, row.cells, strict=True):
        value = cell.sd if kind == "sd" else cell.value
        if kind in ("null_low", "null_high"):
            low, high = cell.spread or (math.nan, math.nan)
            value = low if kind == "null_low" else high
        if column.kind == "p":
            line += ["", _raw(cell.sd)] if kind == "sd" else [_raw(cell.value), _raw(cell.log10)]
        else:
            line.append(_raw(value))
    reasons = dict.fromkeys(results.footnotes[cell.note - 1] for cell in row.cells if cell.note)
    return [*line, cell_text("; ".join(reasons))]


def _raw(value: float) -> str:
    if not math.isfinite(value):
        return ""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\u00b1": r"$\pm$",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "\u2013": "--",
    "[": "{[}", "*": "{*}",  # unprotected, the first of a line would be an argument of the \\ before it
} | {c: f"\\{c}" for c in "&%$#_{}"}  # fmt: skip


def _tex(text: str) -> str:
    printable = (c for c in " ".join(text.split()) if c.isprintable())  # control characters stop a run of LaTeX
    return "".join(_LATEX.get(c, c) for c in printable)


def to_latex(model: ReportModel) -> str:
    """Return the table as LaTeX, for the package booktabs; only means if a label has several seeds."""
    results = table(model)
    several = {(row.role, row.label) for row in results.rows if row.kind == "mean"}
    rows = [row for row in results.rows if row.kind != "run" or (row.role, row.label) not in several]
    lines = [r"\begin{tabular}{l" + "r" * len(results.columns) + "}", r"\toprule"]
    lines.append(" & ".join(["run", *(_tex(c.head) for c in results.columns)]) + r" \\")
    lines.append(r"\midrule")
    lines += [" & ".join([_tex(_marked(row)), *(_tex(cell.text) for cell in row.cells)]) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


@dataclass(frozen=True)
class TerminalTable:
    """The table for a terminal: if it is too wide, further columns follow below with the names of the runs again."""

    model: ReportModel

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        results = table(self.model)
        yield Text(self.model.title, style="bold")
        yield from _judgement_lines(self.model, options.max_width)
        for columns in _blocks(results, options.max_width):
            yield _block(results, columns)
            yield Text()
        if self.model.protocol is not None:
            yield _recovery_table(self.model.protocol)
            yield from (Text(f"- {line}") for line in self.model.protocol.findings)
        for k, reason in enumerate(results.footnotes, 1):
            yield Text(f"({k}) {reason}", style="dim")
        if any(row.flag for row in results.rows):
            yield Text(f"! {BELOW_FLOOR}. {floor_line(self.model)}", style="yellow")
        for line in cautions(self.model):
            yield Text(line)
        if self.model.audits:
            yield from _audit_tables(self.model, options.max_width)


def _judgement_lines(model: ReportModel, width: int) -> Iterator[Text]:
    """Yield the choice, then each verdict, the broken models below a line."""
    judged = judgement(model)
    if judged is None:
        return
    yield Text(judged.choice, style="bold")
    yield Text()
    whole = len(judged.all) <= FEW_MODELS
    for place, verdict in zip(judged.places, judged.ranked, strict=False):
        yield Text(
            folded(verdict, width) if whole else f"{place}. {verdict.line}" if verdict.measured else verdict.line
        )
    if judged.broken:
        yield Text("---- broken, not ranked ----", style="yellow")
        for verdict in judged.broken:
            yield Text(folded(verdict, width) if whole else f"{verdict.model}: {verdict.broken}", style="dim")
    if not whole:
        yield Text("Every answer with its number and interval is in report.html and results.md.")
    yield Text()


FEW_MODELS = 4  # largest number of models whose verdicts a terminal shows in full
FEW = 8  # largest number of findings to list in a terminal


def _audit_tables(model: ReportModel, width: int) -> Iterator[RichTable | Text]:
    """Yield the verdicts, in blocks that fit the width; and the findings if they are few."""
    seen = overview(model)
    yield Text("\nAudits: has it really forgotten?", style="bold")
    names = min(max([len(label) + 2 * (label in seen.flags) for label, _ in seen.rows] + [5]), width // 3)
    shown = [(head, [_narrow(cells[i]) for _, cells in seen.rows]) for i, head in enumerate(seen.columns)]
    needs = [
        max(len(line) for text in (":\n".join(head), *cells) for line in text.split("\n")) for head, cells in shown
    ]
    for block in _fitting([need + _GAP for need in needs], names + _GAP, width):
        grid = RichTable(box=None, padding=(0, _GAP, 0, 0), header_style="bold", pad_edge=False)
        grid.add_column("\nmodel", overflow="fold", max_width=names)
        for i in block:
            grid.add_column(Text(":\n".join(shown[i][0])), overflow="fold", min_width=min(needs[i], width - names - 4))
        for k, (label, _) in enumerate(seen.rows):
            name = f"{label} !" if label in seen.flags else label  # the line below the table of results explains
            grid.add_row(Text(name), *(Text(shown[i][1][k]) for i in block))
        yield grid
        yield Text()
    yield Text(LEGEND, style="dim")
    for k, reason in enumerate(seen.footnotes, 1):
        yield Text(f"({k}) {reason}", style="dim")
    if len(model.audits) <= FEW:
        for audit, rows in audit_rows(model).items():
            for label, name, *_, position, verdict, note in rows:
                yield Text(f"- {label}, {audit}: {name}: {verdict}, position {position}{f'; {note}' if note else ''}")
    else:
        yield Text("Every finding with its interval is in report.html and results.md; audits.json has all numbers.")


def _narrow(cell: AuditSummary) -> str:
    """Format a cell for a terminal, a line per verdict."""
    notes = "".join(f" ({k})" for k in cell.notes)
    return "\n".join(str(verdict) for verdict in cell.verdicts) + notes


def _recovery_table(protocol: Protocol) -> RichTable:
    shown = RichTable(title=f"Recovery of {protocol.feature}", box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
    for k, head in enumerate(recovery_heads(protocol)):
        shown.add_column(head, justify="right" if k else "left", overflow="fold")
    for row in recovery_rows(protocol):
        shown.add_row(*(Text(cell) for cell in row))
    return shown


def to_rich(model: ReportModel) -> TerminalTable:
    """Return the results for `rich.print`."""
    return TerminalTable(model)


def _shown(row: TableRow, i: int) -> str:
    cell = row.cells[i]
    return f"{cell.text} ({cell.note})" if cell.note else cell.text


def _blocks(results: ReportTable, width: int) -> list[list[int]]:
    """Return the columns in blocks that fit the width, at least one each."""
    names = max([len(_marked(row)) for row in results.rows] + [3])
    left_for_names = min(names, width // 3) + _GAP
    needs = []
    for i, column in enumerate(results.columns):
        words = max(len(word) for word in column.head.split())
        needs.append(max([words] + [len(_shown(row, i)) for row in results.rows]) + _GAP)
    return _fitting(needs, left_for_names, width)


def _fitting(needs: list[int], names: int, width: int) -> list[list[int]]:
    """Group columns, by their widths, into blocks that fit next to the names of the rows."""
    blocks: list[list[int]] = []
    used = width + 1
    for i, need in enumerate(needs):
        if used + need > width:
            blocks.append([])
            used = names
        blocks[-1].append(i)
        used += need
    return blocks


def _block(results: ReportTable, columns: list[int]) -> RichTable:
    shown = RichTable(box=None, padding=(0, _GAP, 0, 0), header_style="bold", pad_edge=False)
    shown.add_column("run", overflow="fold", vertical="bottom")
    for i in columns:
        shown.add_column(
            results.columns[i].head.replace(" ", "\n"),
            justify="right",
            min_width=max([len(_shown(r, i)) for r in results.rows] + [1]),
        )
    for row in results.rows:
        style = "yellow" if row.flag else "bold" if row.role == "retain" or row.kind == "mean" else None
        # Text, not str: a label may contain rich markup.
        shown.add_row(Text(_marked(row)), *(Text(_shown(row, i)) for i in columns), style=style)
    return shown
