"""Results from stored records again: for metrics that have changed, or another retain log. No model is read."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from expunge.core.errors import ConfigError
from expunge.core.files import write_bytes, write_text
from expunge.metrics.results import META, read_results
from expunge.pipelines.study import measuring
from expunge.pipelines.study.context_source import ContextSource
from expunge.pipelines.study.resolve_task import resolve_task
from expunge.pipelines.study.single_config import SingleJob, config_text, read_config
from expunge.pipelines.study.task_context import check_retain_file
from expunge.pipelines.study.training_jobs import TrainingJobs

CONFIG = "config.yaml"
MARK = ".expunge-key"


def refresh(
    place: Path,
    retain_logs_path: str | None = None,
    extras: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
) -> dict[str, float | None]:
    """Compute the panel again for a folder that `expunge eval` or `expunge unlearn` has written.

    place: the folder, or its EVAL.json. retain_logs_path, extras, metrics: in place of the retain log, the groups of
    metrics (`eval.extras`) and the further metrics (`eval.metrics`) the folder was made with. The
    results files and the stored settings are replaced; records and weights stay. A metric whose records were never made
    is missing and says so. Returns the summary. Raises ConfigError or DataError where the folder is not such a one, or
    the rows are not those that were scored.
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
        retain = check_retain_file(path, meta, len(setting.benchmark.sets["forget_eval"].rows), lambda: mark)
    with tempfile.TemporaryDirectory() as made:
        summary = measuring.measure(Path(made), evals / "records", setting, setting.benchmark.panel, retain, meta)
        for file in sorted(Path(made).iterdir()):
            write_bytes(evals / file.name, file.read_bytes())
    write_text(folder / CONFIG, config_text(single))
    write_text(folder / MARK, "refreshed\n")  # it no longer shows what the job of its first key has made
    return summary


def _folders(place: Path) -> tuple[Path, Path]:
    """The folder with the settings, and the one with the results and the records."""
    start = place.parent if place.is_file() else place
    if not start.is_dir():
        raise ConfigError(f"--refresh: no folder {place}")
    for folder in (start, start.parent):
        if (folder / CONFIG).is_file():
            for evals in (folder / "evals", folder):
                if (evals / "records").is_dir():
                    return folder, evals
    raise ConfigError(
        f"--refresh: {place} holds no {CONFIG} beside records/; give a folder that `expunge eval` or `expunge unlearn` "
        "has written"
    )


def _settings(folder: Path, changed: Mapping[str, Sequence[str] | None]) -> SingleJob:
    """Return the settings stored with a folder, with other lists of metrics if these are given."""
    try:
        tree = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{folder / CONFIG}: not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{folder / CONFIG}: expected a group of keys, got {tree!r}")
    return read_config(tree, changed)


def _check_rows(eval_file: Path, meta: Mapping[str, Any]) -> None:
    """The rows that were scored must be the rows of today's data. Raises ConfigError naming the set that is not."""
    if not eval_file.is_file():
        raise ConfigError(f"--refresh: no file {eval_file}")
    said = read_results(eval_file)[1].get("rows")
    if not isinstance(said, dict):
        raise ConfigError(f"--refresh: {eval_file} does not say which rows it was measured on (no {META}.rows)")
    for name, fingerprint in said.items():
        if meta["rows"].get(name, fingerprint) != fingerprint:
            raise ConfigError(f"--refresh: the {name} rows are not those that {eval_file} was measured on; score again")
