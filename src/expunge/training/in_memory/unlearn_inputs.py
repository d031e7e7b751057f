"""The inputs of `UnlearnTrainer`: a model or its name, a tokenizer, evaluation data, and integrations."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from expunge.benchmarks import BenchmarkConfig, find_benchmark
from expunge.core.errors import ConfigError, as_list, keys_named, kind_of, nearest, one_line
from expunge.core.hub import check_repository
from expunge.core.on_use import transformers
from expunge.data.in_memory import examples_from
from expunge.evaluation.evaluator import EvalTask, choose_metrics
from expunge.models.capabilities import n_logits
from expunge.models.config import check_source
from expunge.models.load import load_named, load_named_tokenizer, require_tokenizer
from expunge.models.wrapped import WrappedModel
from expunge.training.in_memory.unlearn_config import UnlearnConfig

ROLES = ("forget", "retain", "holdout")


def tokenizer_of(model: Any, tokenizer: Any) -> Any:
    """Return the tokenizer: the object, the one of a name, or the one next to the model. Raises ConfigError."""
    if tokenizer is not None and not isinstance(tokenizer, str | Path):
        require_tokenizer(tokenizer, "processing_class")
        return tokenizer
    source = tokenizer or (model if isinstance(model, str | Path) else getattr(model, "name_or_path", ""))
    if not source:
        raise ConfigError("processing_class: missing; give the model's tokenizer (AutoTokenizer.from_pretrained(...))")
    if tokenizer is None and isinstance(model, str | Path):
        check_source(str(source), "model")
    return load_named_tokenizer(str(source), "processing_class")


def model_to_train(model: Any) -> Any:
    """Return the model object, or load the one of a name. Raises ConfigError if it has a wrapper."""
    loaded = load_named(model)
    if isinstance(loaded, WrappedModel):
        raise ConfigError(
            f"model: it has the wrapper {type(loaded.wrapper).__name__}, and unlearning trains weights; pass the model "
            "under it (model.inner), and wrap the result"
        )
    return loaded


def eval_roles(data: Any) -> dict[str, Any] | None:
    """Return the data of `evaluate` by role, or a benchmark. Raises ConfigError for anything else."""
    if data is None:
        return None
    if isinstance(data, str) or hasattr(data, "panel"):
        return {"benchmark": find_benchmark(data).make(BenchmarkConfig()) if isinstance(data, str) else data}
    if isinstance(data, Mapping):
        for role in data:
            if role not in ROLES:
                raise ConfigError(f"eval_dataset: no role named {role!r}{nearest(str(role), ROLES)}")
        return {str(role): examples_from(rows, str(role)) for role, rows in data.items()}
    raise ConfigError(
        'eval_dataset: expected a benchmark, or a mapping such as {"forget": rows, "retain": rows, "holdout": rows}, '
        f"got {kind_of(data)}"
    )


def check_metrics(args: UnlearnConfig, task: EvalTask) -> None:
    """Raise ConfigError for a metric in the settings that an evaluation on the task does not compute."""
    where = type(args).__name__
    with settings_named(args):
        suite = [f"eval_{metric.name}" for metric in choose_metrics(task.panel, args.eval_metrics, task.sets)]
    key = f"eval_{(args.metric_for_best_model or '').removeprefix('eval_')}"
    if args.metric_for_best_model is not None and key not in suite:
        raise ConfigError(f"{where}.metric_for_best_model: the evaluation has no metric {key!r}{nearest(key, suite)}")


def reporting_callbacks(args: UnlearnConfig) -> list[transformers.TrainerCallback]:
    """Return the integrations' callbacks. Raises ConfigError for an unknown or missing one."""
    if not args.reporters:
        return []
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    where, out = f"{type(args).__name__}.report_to", []
    for name in args.reporters:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ConfigError(f"{where}: no integration named {name!r}{nearest(name, INTEGRATION_TO_CALLBACK)}")
        try:
            out.append(INTEGRATION_TO_CALLBACK[name]())
        except (ImportError, RuntimeError) as error:
            raise ConfigError(f"{where}: {one_line(error)}") from None
    return out


def repository_of(args: UnlearnConfig, repo_id: str | None = None) -> str:
    """Return the repository of `push_to_hub`. Raises ConfigError if none is named, or the name is wrong."""
    name = repo_id or args.hub_model_id or (Path(args.output_dir).name if args.output_dir else None)
    if name is None:
        raise ConfigError("push_to_hub: name a repository, or set hub_model_id in the settings")
    check_repository(name, "push_to_hub")
    return name


def check_callbacks(callbacks: Any, args: UnlearnConfig) -> None:
    """Raise ConfigError for anything but transformers' callbacks, and for early stopping without its settings."""
    base, name = transformers.TrainerCallback, type(args).__name__
    for one in as_list(callbacks, "callbacks"):
        kind = one if isinstance(one, type) else type(one)
        if not issubclass(kind, base):
            raise ConfigError(f"callbacks: expected TrainerCallbacks of transformers, got {kind_of(one)}")
        if issubclass(kind, transformers.EarlyStoppingCallback):
            if args.metric_for_best_model is None:
                raise ConfigError(f"{name}.metric_for_best_model: missing; EarlyStoppingCallback reads it")
            if args.eval_strategy == "no":
                raise ConfigError(f'{name}.eval_strategy: EarlyStoppingCallback needs "epoch" or "steps", got "no"')


def check_reference(model: Any, ref_model: Any) -> None:
    """Raise ConfigError for a reference model whose vocabulary has another size."""
    sizes = [n_logits(one) for one in (model, ref_model) if one is not None]
    if len(set(sizes)) > 1:
        raise ConfigError(
            f"ref_model: it has {sizes[1]} tokens and the model {sizes[0]}; both need the same vocabulary"
        )


def shows_progress(disable: bool | None) -> bool:
    """Return whether a progress bar is shown. None: in a terminal only."""
    return sys.stderr.isatty() if disable is None else not disable


def settings_named(args: UnlearnConfig) -> AbstractContextManager[None]:
    """Name a setting in errors as a field of its class, where jobs and `evaluate` have other keys."""
    own = type(args).__name__
    method = own if args.METHOD else f"{own}.method_args"
    return keys_named({"trainer.method_args": method, "trainer.args": own, "metrics": f"{own}.eval_metrics"})


def shown_arguments(
    arguments: transformers.TrainingArguments, args: UnlearnConfig, method: str
) -> transformers.TrainingArguments:
    """Complete the TrainingArguments that callbacks receive: batches, names, integrations, early stopping."""
    arguments.per_device_train_batch_size = args.per_device_train_batch_size
    arguments.gradient_accumulation_steps = args.gradient_accumulation_steps
    arguments.run_name = args.run_name or args.output_dir or method or None
    arguments.report_to = list(args.reporters)
    arguments.eval_strategy = transformers.trainer_utils.IntervalStrategy(args.eval_strategy)
    arguments.metric_for_best_model = args.metric_for_best_model
    better = args.greater_is_better
    arguments.greater_is_better = not (args.metric_for_best_model or "").endswith("loss") if better is None else better
    return arguments
