"""Run tasks of lm-evaluation-harness on a model: its own code prompts and scores, with our model and tokenizer."""

from __future__ import annotations

import copy
import importlib.util
import logging
import math
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError, JobError, nearest, one_line
from expunge.core.fingerprints import folder_sha256
from expunge.engine.job import Progress
from expunge.engine.store import store_around
from expunge.metrics.api import MetricResult
from expunge.metrics.results import write_results
from expunge.models.config import ModelConfig
from expunge.models.load import load_tokenizer, pick_device
from expunge.pipelines.study.task_config import LmEval
from expunge.pipelines.study_jobs import LM_EVAL

KEY = "eval.lm_eval"


def check_tasks(config: LmEval) -> None:
    """Raise ConfigError, in one line, if the package or a task is not there. Reads no weights and no data."""
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(
            f"{KEY}.tasks: needs the package lm-eval, which is not installed: pip install 'expunge[lm-eval]'"
        )
    if config.include_path is not None and not Path(config.include_path).expanduser().is_dir():
        raise ConfigError(f"{KEY}.include_path: no folder {config.include_path}")
    known = _manager(config).all_tasks
    for name in _needed(config):
        if name not in known:
            raise ConfigError(f"{KEY}.tasks: lm-eval has no task named {name!r}{nearest(name, known)}")


def identity(config: LmEval) -> dict[str, Any]:
    """Return the keyed settings: the tasks, their prompts and the version of the harness; not the batch size."""
    out: dict[str, Any] = {
        "tasks": config.tasks,
        "num_fewshot": config.num_fewshot,
        "apply_chat_template": config.apply_chat_template,
        "system_instruction": config.system_instruction,
        "limit": config.limit,
        "lm_eval": metadata.version("lm_eval"),
    }
    if config.include_path is not None:
        folder = Path(config.include_path).expanduser()
        names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
        out["include"] = folder_sha256(folder, names)
    return out


def measure_tasks(
    folder: Path, source: str, model: ModelConfig, config: LmEval, meta: Mapping[str, Any], progress: Progress
) -> dict[str, Any]:
    """Run the tasks and write LMEval_EVAL.json and LMEval_SUMMARY.json, a metric `task/metric` each.

    Raises JobError if a task cannot be run: its data are not reachable, or the tokenizer has no chat template.
    """
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    tokenizer = load_tokenizer(model.tokenizer_args.pretrained_model_name_or_path or source, model.tokenizer_args)
    if config.apply_chat_template and not tokenizer.chat_template:
        raise JobError(f"{KEY}.apply_chat_template: this tokenizer has no chat template")
    from expunge.evaluation.passport import load_checked

    loaded, passport = load_checked(
        source, model.model_args, tokenizer, device=pick_device(model.device), store=store_around(folder)
    )
    # the harness pads its batches itself, so a model that reads padding in another way gets rows one by one
    can = passport.capabilities
    plain = can is not None and not (can.padded and can.masked and can.generation == "batched")
    batch_size = 1 if plain else config.batch_size
    harness: Any = HFLM(pretrained=loaded, tokenizer=tokenizer, batch_size=batch_size)
    try:
        output = lm_eval.simple_evaluate(
            model=harness,
            tasks=[_specification(task) for task in config.tasks],
            num_fewshot=config.num_fewshot,
            batch_size=batch_size,
            limit=config.limit,
            system_instruction=config.system_instruction,
            apply_chat_template=config.apply_chat_template,
            task_manager=_manager(config),
            log_samples=False,
        )
    except Exception as error:  # the tasks' own code and the data sets' loaders share no base class
        message = one_line(error)
        raise JobError(f"{KEY}.tasks={','.join(config.names)}: lm-eval could not run them: {message}") from error
    results = task_results(output["results"] if output else {})
    write_results(folder, results, meta, prefix=LM_EVAL)
    progress(1, 1)
    return {name: None if math.isnan(r.value) else r.value for name, r in results.items()}


def task_results(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, MetricResult]:
    """Return lm-eval's numbers as metrics: `task/metric` if its filter is "none", else `task/metric,filter`."""
    out: dict[str, MetricResult] = {}
    for task, numbers in tables.items():
        for key, value in numbers.items():
            metric, _, kind = key.partition(",")
            if not kind or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = numbers.get(f"{metric}_stderr,{kind}")
            extra = {"stderr": float(error)} if isinstance(error, int | float) else {}
            name = f"{task}/{metric}" + ("" if kind == "none" else f",{kind}")
            reason = "lm-eval gave no number" if math.isnan(value) else None
            out[name] = MetricResult(float(value), reason=reason, extra=extra)
    return out


def _needed(config: LmEval) -> list[str]:
    """Return the names that lm-eval must know: all but those of tasks that the settings define themselves."""
    pairs = zip(config.tasks, config.names, strict=True)
    return [name for task, name in pairs if isinstance(task, str) or not _defined(task)]


def _defined(task: Mapping[str, Any]) -> bool:
    """Return whether a group of keys defines a task; without data it changes a known one."""
    return "dataset_path" in task


def _specification(task: str | Mapping[str, Any]) -> str | dict[str, Any]:
    """Return a task as lm-eval's TaskManager reads it; it changes the settings of known tasks only inside a group."""
    if isinstance(task, str):
        return task
    keys = copy.deepcopy(dict(task))  # it pops keys
    return keys if _defined(task) else {"group": f"{task['task']}, changed", "task": [keys]}


def _manager(config: LmEval) -> Any:
    """Return the index of tasks: only the user's folder if it has all tasks, because lm-eval's own is slow to read."""
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    if config.include_path is None:
        return TaskManager()
    folder = str(Path(config.include_path).expanduser())
    own = TaskManager(include_path=folder, include_defaults=False)
    return own if set(_needed(config)) <= set(own.all_tasks) else TaskManager(include_path=folder)
