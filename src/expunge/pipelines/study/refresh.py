"""Recompute results from stored records, for changed metrics or another retain log. Reads no model."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError
from expunge.core.files import write_bytes, write_text
from expunge.core.yaml_text import read_yaml
from expunge.engine.mark import MARK
from expunge.engine.show import changed_files, write_manifest
from expunge.metrics.results import META, read_results
from expunge.pipelines.study.context_source import ContextSource
from expunge.pipelines.study.resolve_task import resolve_task
from expunge.pipelines.study.single_config import SingleJob, config_text, read_config
from expunge.pipelines.study.task_context import check_retain_file
from expunge.pipelines.study_jobs import measuring
from expunge.pipelines.study_jobs.training_jobs import TrainingJobs

CONFIG = "config.yaml"


def refresh(
    place: Path,
    retain_logs_path: str | None = None,
    extras: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
) -> dict[str, float | None]:
    """Compute the panel again for a folder that `expunge eval` or `expunge unlearn` has written.

    place: the folder, or its EVAL.json. retain_logs_path, extras, metrics: in place of the retain log, the groups of
    metrics (`eval.extras`) and the further metrics (`eval.metrics`) of the folder. The
    results files and the stored settings are replaced; records and weights stay. A metric without stored records
    is missing, with a reason. Returns the summary. Raises ConfigError or DataError for another kind of folder, or if
    the rows have changed since they were scored.
    """
    folder, evals = _folders(place)
    single = _settings(folder, {"extras": extras, "metrics": metrics})
    if retain_logs_path is not None:
        single = dataclasses.replace(single, retain_logs_path=retain_logs_path)
    setting = resolve_task(single)
    maker = TrainingJobs(setting, single.eval, ContextSource.of(single, setting))
    meta = maker.meta()
    _check_rows(evals / maker.eval_file, meta)
    mark = measuring.tokenizer_of(evals / "records")
    retain: Mapping[str, Any] | None = None
    if single.retain_logs_path:
        path = Path(single.retain_logs_path).expanduser()
        retain = check_retain_file(path, meta, len(setting.benchmark.sets.get("forget_eval", ())), lambda: mark)
    changed = [name for name in changed_files(folder) if "records" in Path(name).parts]
    if changed:
        raise ConfigError(f"--refresh: {folder / changed[0]} was changed after it was written; score again")
    with tempfile.TemporaryDirectory() as work_folder:
        summary = measuring.measure(
            Path(work_folder), evals / "records", setting, setting.benchmark.panel, retain, meta
        )
        for file in sorted(Path(work_folder).iterdir()):
            write_bytes(evals / file.name, file.read_bytes())
    write_text(folder / CONFIG, config_text(single))
    write_text(folder / MARK, "refreshed\n")  # the folder no longer shows the result of its first job
    write_manifest(folder)
    return summary


def missing_numbers(place: Path) -> dict[str, list[str]]:
    """Return the reasons why metrics of a refreshed folder have no number, each with these metrics' names."""
    _, evals = _folders(place)
    out: dict[str, list[str]] = {}
    for file in sorted(evals.glob("*_EVAL.json")):
        for name, result in read_results(file)[0].items():
            if result.reason is not None and math.isnan(result.value):
                out.setdefault(result.reason, []).append(name)
    return out


def _folders(place: Path) -> tuple[Path, Path]:
    """Return the folder with the settings, and the one with the results and the records."""
    start = place.parent if place.is_file() else place
    if not start.is_dir():
        raise ConfigError(f"--refresh: no folder {place}")
    for folder in (start, start.parent):
        if (folder / CONFIG).is_file():
            for evals in (folder / "evals", folder):
                if (evals / "records").is_dir():
                    return folder, evals
    raise ConfigError(
        f"--refresh: {place} has no {CONFIG} next to records/; give a folder that `expunge eval` or `expunge unlearn` "
        "has written"
    )


def _settings(folder: Path, changed: Mapping[str, Sequence[str] | None]) -> SingleJob:
    """Return the settings stored with a folder, with other lists of metrics if these are given."""
    return read_config(read_yaml(folder / CONFIG, ""), changed)


def _check_rows(eval_file: Path, meta: Mapping[str, Any]) -> None:
    """Raise ConfigError if a set of rows differs from the rows that were scored."""
    if not eval_file.is_file():
        raise ConfigError(f"--refresh: no file {eval_file}")
    stored_rows = read_results(eval_file)[1].get("rows")
    if not isinstance(stored_rows, dict):
        raise ConfigError(f"--refresh: {eval_file} does not record its rows (no {META}.rows)")
    for name, fingerprint in stored_rows.items():
        if meta["rows"].get(name, fingerprint) != fingerprint:
            raise ConfigError(f"--refresh: the {name} rows differ from the rows of {eval_file}; score again")
