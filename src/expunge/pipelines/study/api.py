"""`Study`: a whole study from Python. It is planned, run and read; its results are DataFrames."""

from __future__ import annotations

import html
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.core.errors import ConfigError, as_list, as_path, as_texts, kind_of, nearest
from expunge.core.plugins import load_plugins

if TYPE_CHECKING:  # a study's code loads torch
    from expunge.pipelines.study.handle import StudyHandle


class Study:
    """A checked study: a graph of jobs whose results are kept in its store. A finished job is never done again.

    Open one with `from_yaml` (your file) or `from_name` (a shipped study).
    """

    def __init__(self, handle: StudyHandle) -> None:
        if not hasattr(handle, "graph"):
            raise ConfigError(f"Study: open one by Study.from_yaml or Study.from_name, not with {kind_of(handle)}")
        self._handle = handle
        self.failures: Mapping[str, str] = {}
        """The jobs that failed in the last `run`, with their reasons."""

    @classmethod
    def from_yaml(cls, path: str | Path, *overrides: str, plugins: Sequence[str | Path] = ()) -> Study:
        """Open a study file.

        Args:
            path: The YAML file, as `expunge run study=FILE.yaml` reads it.
            *overrides: Further settings as words, such as `"unlearn.num_train_epochs=2"`.
            plugins: Python files with methods or metrics of your own.

        Raises:
            ConfigError: If the file or a setting is wrong. DataError: If its data cannot be read.
        """
        file = as_path(path, "study")
        if not file.is_file():
            names = [p.name for p in file.parent.glob("*.y*ml")] if file.parent.is_dir() else []
            raise ConfigError(f"study: no file {path}{nearest(file.name, names) if names else ''}")
        return cls._opened([f"study={file}", *overrides], plugins)

    @classmethod
    def from_name(cls, name: str, *overrides: str, plugins: Sequence[str | Path] = ()) -> Study:
        """Open a shipped study by name, such as `"quickstart"`. The rest is as for `from_yaml`."""
        return cls._opened([f"study={name}", *overrides], plugins)

    @classmethod
    def _opened(cls, words: Sequence[str], plugins: Sequence[str | Path]) -> Study:
        from expunge.pipelines.study.handle import load_study

        first, *others = as_texts(words, "overrides")
        if any(word.lstrip("+").partition("=")[0] == "study" for word in others):
            raise ConfigError(f"study: is {first.partition('=')[2]!r} already; open another one by its own call")
        paths = as_list(plugins, "plugins")
        files = as_texts([str(path) if isinstance(path, Path) else path for path in paths], "plugins")
        if files:
            load_plugins(files)
        return cls(load_study([first, *others], files))

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self._handle.graph.study.name)

    @property
    def output_dir(self) -> Path:
        """The folder of the report."""
        return self._handle.graph.study.output_dir

    def plan(self) -> Any:
        """Return every job and its state ("hit", "missing" or "blocked") as a DataFrame, without running any.

        Columns: job, kind, state, tokens (that it will read), seconds (estimated; None if unknown).
        """
        import pandas as pd

        lines = [
            {"job": p.job.name, "kind": p.job.kind, "state": p.state, "tokens": p.job.estimate.tokens,
             "seconds": p.seconds}
            for p in self._handle.plan()
        ]  # fmt: skip
        return pd.DataFrame(lines, columns=["job", "kind", "state", "tokens", "seconds"])

    def run(self, *, show_progress: bool | None = None) -> Study:
        """Run the jobs that are missing, write the report, and return the study itself.

        Args:
            show_progress: Whether the jobs are listed while they run. None: in a terminal only.

        Raises:
            ExpungeError: The first error, if not one model could be measured. Other failures are in `failures`.
        """
        from expunge.core.console import Console

        if not isinstance(show_progress, bool | None):
            raise ConfigError(f"show_progress: expected True, False or None, got {show_progress!r}")
        shown = sys.stderr.isatty() if show_progress is None else show_progress
        result = self._handle.run(console=Console(stderr=True, quiet=not shown), command="")
        self.failures = dict(result.failures)
        return self

    def results(self) -> Any:
        """Return one row per model and one column per metric, as far as the study has been run.

        Columns: label, role, seed, then the metrics and their further numbers (`METRIC.NUMBER`).
        """
        long, keys = self.metrics(), ["label", "role", "seed"]
        if not len(long):
            return long[keys]
        order = list(dict.fromkeys(long["metric"]))
        wide = long.pivot_table(index=keys, columns="metric", values="value", sort=False, dropna=False)
        wide = wide.loc[wide.notna().any(axis=1), [name for name in order if name in wide.columns]]
        wide.columns.name = None
        return wide.reset_index()

    def metrics(self) -> Any:
        """Return one row per model and metric: value, bootstrap interval, and the reason if it is missing."""
        from expunge.report.query import results_table

        return results_table(self._handle.stored()).to_pandas()

    @property
    def report(self) -> Path:
        """The page of the report; `run` writes it."""
        return self.output_dir / "report.html"

    def export_slurm(self, folder: str | Path) -> list[Path]:
        """Write the study as sbatch scripts into a folder and return them; the last one queues all others."""
        return self._handle.export_slurm(as_path(folder, "export_slurm", folder=True))

    def _states(self) -> str:
        counts = Counter(p.state for p in self._handle.plan())
        return ", ".join(f"{n} {state}" for state, n in counts.items())

    def __repr__(self) -> str:
        study = self._handle.graph.study
        methods = ", ".join(entry.label or entry.trainer for entry in study.methods) or "none"
        return (
            f"Study({self.name})\n  benchmark: {study.benchmark}\n  methods: {methods}\n  jobs: {self._states()}\n"
            f"  report: {self.report}"
        )

    def _repr_html_(self) -> str:
        table = self.results()
        head = f"<p>{html.escape(self.name)}: {self._states()}</p>"
        metrics = [name for name in table.columns if "." not in name]  # the further numbers are in `results()`
        return head + (str(table[metrics].to_html(index=False, na_rep="")) if len(table) else "")
