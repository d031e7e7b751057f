"""The result of an evaluation: values by metric name, per-example statistics, generations, and files of both."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from expunge.core.errors import ConfigError, DataError, as_path, kind_of, nearest
from expunge.metrics.aggregate import rows_behind
from expunge.metrics.api import MetricResult
from expunge.metrics.fluency import gibberish
from expunge.metrics.results import read_results, write_results
from expunge.metrics.utility import utility_answer
from expunge.metrics.verdict import DIRECT, Verdict, direct_findings, make_verdict

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 12  # metrics in `repr`
NOTES = "notes"  # in the metadata of the EVAL file
UTILITIES = ("model_utility", "retain_Q_A_Prob", "retain_knowmem_ROUGE")  # the first that was measured
UTILITY_FLOOR = 0.5  # share of the target model's utility below which a model is broken
RECORDS = "records"  # the folder of the record files, as jobs write it


MEASURED = {  # in the metadata of a result; its effect on a difference
    "template": "a difference may come from the form of the prompts",
    "tokenizer": "numbers per token are not comparable",
}
SIDES = {"retain": "the model and the retain model", "full": "the model and the target model"}


class EvalResult(Mapping[str, float]):
    """The values of one model by metric name.

    A mapping from metric name to value. A metric that could not be computed is NaN, and `reasons` has the cause.

    Attributes:
        results: Each metric's MetricResult: value, reason, statistics by example, further aggregates.
        meta: The measured data: benchmark, split, fingerprints of the examples, template and tokenizer.
        examples: Metric name -> the name of the examples that it reads; metrics of other metrics have none.
        records: "<examples>.<kind>" -> the table of records the metrics were computed from.
        prefix: The start of the names of the result files, such as "TOFU".
        notes: One line for each thing that decides a number: truncated answers, the template, how the model is read.
        retain: The results of the retain model, for `verdict`; None if they are not known.
        full: The same of the target model, which has not unlearned.
    """

    def __init__(
        self,
        results: Mapping[str, MetricResult],
        *,
        meta: Mapping[str, Any] | None = None,
        examples: Mapping[str, str] | None = None,
        records: Mapping[str, pa.Table] | None = None,
        prefix: str = "CUSTOM",
        notes: Sequence[str] = (),
        retain: Mapping[str, MetricResult] | None = None,
        full: Mapping[str, MetricResult] | None = None,
    ) -> None:
        self.results = dict(results)
        self.retain, self.full = retain, full
        self.meta = dict(meta or {})
        self.examples = dict(examples or {})
        self.records = dict(records or {})
        self.prefix = prefix
        self.notes = tuple(notes)

    def __getitem__(self, name: str) -> float:
        if name not in self.results:
            raise KeyError(f"no metric named {name!r}{nearest(name, self.results)}")
        return self.results[name].value

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def with_controls(
        self,
        *,
        retain: EvalResult | Mapping[str, MetricResult] | None = None,
        full: EvalResult | Mapping[str, MetricResult] | None = None,
    ) -> EvalResult:
        """Return the same result with the results of its controls on the same examples, for `verdict`.

        Args:
            retain: The results of the retain model. None: the results that are known already.
            full: The results of the target model.

        Raises:
            ConfigError: If a control is no result, or was measured on other examples.
        """
        sides = {"retain": retain, "full": full}
        for name, one in sides.items():
            if not isinstance(one, Mapping | None):
                raise ConfigError(f"with_controls: {name}: expected an EvalResult, got {kind_of(one)}")
            check_examples(self.meta.get("rows"), one, f"with_controls: {name}")
        known = {k: getattr(self, k) if v is None else v.results if isinstance(v, EvalResult) else v
                 for k, v in sides.items()}  # fmt: skip
        other = [note for k, v in sides.items() for note in other_measurement(self.meta, v, SIDES[k])]
        return EvalResult(
            self.results, meta=self.meta, examples=self.examples, records=self.records, prefix=self.prefix,
            notes=tuple(dict.fromkeys((*self.notes, *other))), **known,
        )  # fmt: skip

    @property
    def verdict(self) -> Verdict:
        """The verdict on the model, as far as its controls are known; see `with_controls`."""
        reason = "no metric of the forget examples is the same in the model and its controls"
        if self.retain is None:
            reason = "there is no retain model to compare it with; see with_controls"
        retain, full = ([] if of is None else [of] for of in (self.retain, self.full))
        findings = [(DIRECT, finding) for finding in direct_findings([self.results], retain, full)]
        utility = next((n for n in UTILITIES if math.isfinite(self.get(n, math.nan))), UTILITIES[0])
        answer = utility_answer([self.results], full, utility, UTILITY_FLOOR)
        broken = gibberish(self._answers_to_keep(), ())
        return make_verdict("model", findings, answer, gibberish=broken, reason=reason)

    def _answers_to_keep(self) -> list[str]:
        """Return the generated answers to examples that are not forgotten."""
        tables = {key.rpartition(".")[0]: table for key, table in self.records.items() if key.endswith(".texts")}
        others = [table for name, table in tables.items() if not name.startswith(("forget", "holdout"))]
        return [text for table in others for text in table.column("generation").to_pylist()]

    @property
    def reasons(self) -> dict[str, str]:
        """Return the reason for each metric that has no value."""
        return {n: r.reason or "its value is not a number" for n, r in self.results.items() if math.isnan(r.value)}

    @property
    def per_example(self) -> pd.DataFrame:
        """Return the statistics of each example, one per line.

        Columns: metric; examples (the set); row_id (the example's position in it); statistic; answer (the number of the
        answer where an example has several, else 0); value.
        """
        import pandas as pd

        lines = []
        for name, result in self.results.items():
            for row, statistics in result.per_row.items():
                for statistic, value in statistics.items():
                    values = value if isinstance(value, list) else [value]
                    lines += [
                        (name, self.examples.get(name), row, statistic, k, number) for k, number in enumerate(values)
                    ]
        return pd.DataFrame(lines, columns=["metric", "examples", "row_id", "statistic", "answer", "value"])

    @property
    def generations(self) -> pd.DataFrame:
        """Return the generated texts, one per line, with their prompts and references."""
        import pandas as pd

        frames = []
        for name, table in self.records.items():
            examples, _, kind = name.rpartition(".")
            if kind in ("texts", "samples"):
                frame = table.to_pandas()
                frame.insert(0, "examples", examples)
                frames.append(frame)
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()

    def to_pandas(self) -> pd.DataFrame:
        """Return one line per metric: value, the 95 % bootstrap interval over examples, n examples, and the reason."""
        import pandas as pd

        lines = [
            {
                "metric": name,
                "value": result.value,
                "ci_low": result.extra.get("ci_low", math.nan),
                "ci_high": result.extra.get("ci_high", math.nan),
                "n": len(result.per_row) or rows_behind(self.results, name),
                "reason": self.reasons.get(name, ""),
            }
            for name, result in self.results.items()
        ]
        return pd.DataFrame(lines, columns=["metric", "value", "ci_low", "ci_high", "n", "reason"]).set_index("metric")

    def save(self, folder: str | Path) -> Path:
        """Write the results into a folder, as evaluation jobs do.

        The files are `<prefix>_EVAL.json`, `<prefix>_SUMMARY.json` and `records/<examples>.<kind>.parquet`. Jobs take
        the EVAL file as `retain_logs_path`.

        Returns:
            The path of the EVAL file.
        """
        place = as_path(folder, "save", folder=True)
        (place / RECORDS).mkdir(parents=True, exist_ok=True)
        meta = {**self.meta, "examples": self.examples, **({NOTES: list(self.notes)} if self.notes else {})}
        write_results(place, self.results, meta, prefix=f"{self.prefix}_")
        for name, table in self.records.items():
            pq.write_table(table, place / RECORDS / f"{name}.parquet")
        return place / f"{self.prefix}_EVAL.json"

    @classmethod
    def load(cls, folder: str | Path) -> EvalResult:
        """Read the results of a folder that `save` or an evaluation job has written, or of one EVAL file.

        Raises:
            DataError: If there is no EVAL file, or several, or if it cannot be read.
        """
        place = as_path(folder, "load")
        files = [place] if place.is_file() else sorted(place.glob("*EVAL.json"))
        if len(files) != 1:
            names = ", ".join(f.name for f in files) or "none"
            raise DataError(f"{place}: expected one *_EVAL.json, found {names}")
        results, meta = read_results(files[0])
        examples = meta.pop("examples", {})
        notes = meta.pop(NOTES, ())
        tables = {f.stem: pq.read_table(f) for f in sorted((files[0].parent / RECORDS).glob("*.parquet"))}
        prefix = files[0].name.removesuffix("EVAL.json").removesuffix("_")
        return cls(results, meta=meta, examples=examples, records=tables, prefix=prefix, notes=notes)

    def __repr__(self) -> str:
        lines = [f"  {name}: {_number(result.value)}" for name, result in list(self.results.items())[:SHOWN]]
        if len(self) > SHOWN:
            lines.append(f"  ... ({len(self)} metrics; to_pandas() shows all)")
        lines += [f"  note: {note}" for note in self.notes]
        of = self.meta.get("benchmark", "")
        return "\n".join([f"EvalResult({of})", *lines])

    def _repr_html_(self) -> str:
        rows = []
        for name, result in self.results.items():
            low, high = (result.extra.get(key) for key in ("ci_low", "ci_high"))
            interval = "" if low is None or high is None else f"[{_number(low)}, {_number(high)}]"
            cells = (name, _number(result.value), interval, self.reasons.get(name, ""))
            rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
        head = "<tr><th>metric</th><th>value</th><th>95 % interval</th><th>reason</th></tr>"
        notes = "".join(f"<p>note: {html.escape(note)}</p>" for note in self.notes)
        return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>{notes}"


def check_examples(rows: Mapping[str, Any] | None, other: Any, where: str) -> None:
    """Raise ConfigError if a result names its examples, and one of these sets differs from the set of that name.

    rows: the fingerprints of the sets by name. other: a result; any other object names no examples.
    """
    theirs = (other.meta.get("rows") if isinstance(other, EvalResult) else None) or {}
    for name, mark in (rows or {}).items():
        if theirs.get(name, mark) != mark:
            raise ConfigError(f"{where}: the {name} examples of the two results are not the same")


def other_measurement(meta: Mapping[str, Any], other: Any, names: str) -> list[str]:
    """Return a note for each thing other than the model in which two measurements differ, as far as both name it.

    meta: the metadata of a result. other: a result; any other object names nothing. names: of the two, for the note.
    """
    theirs = getattr(other, "meta", {})
    differ = [name for name in MEASURED if meta.get(name) and theirs.get(name) and meta[name] != theirs[name]]
    return [f"{names} were measured with other {name}s: {MEASURED[name]}" for name in differ]


def _number(value: float) -> str:
    """Return a number with four significant digits."""
    return "missing" if math.isnan(value) else f"{value:.4g}"
