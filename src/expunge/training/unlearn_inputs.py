"""What `UnlearnTrainer` is given: a model or its name, a tokenizer, evaluation data, and integrations."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_utils import IntervalStrategy

from expunge.benchmarks import BenchmarkConfig, find_benchmark
from expunge.core.errors import ConfigError, nearest
from expunge.data.in_memory import examples_from
from expunge.models.config import ModelArgs, TokenizerArgs, check_source
from expunge.models.load import load_model, load_tokenizer, pick_device
from expunge.training.unlearn_config import UnlearnConfig

ROLES = ("forget", "retain", "holdout")


def model_of(model: Any) -> Any:
    """The model object, or the loaded model of a name."""
    if not isinstance(model, str | Path):
        return model
    return load_model(str(model), ModelArgs(), device=pick_device("auto"))


def tokenizer_of(model: Any, given: Any) -> Any:
    """The tokenizer: the given one, that of a name, or the one next to the model. Raises ConfigError."""
    if given is not None and not isinstance(given, str | Path):
        return given
    source = given or (model if isinstance(model, str | Path) else getattr(model, "name_or_path", ""))
    if not source:
        raise ConfigError("processing_class: missing; give the model's tokenizer (AutoTokenizer.from_pretrained(...))")
    if given is None and isinstance(model, str | Path):
        check_source(str(source), "model")
    return load_tokenizer(str(source), TokenizerArgs())


def eval_roles(given: Any) -> dict[str, Any] | None:
    """What `evaluate` is given: data by role, or a benchmark. Raises ConfigError for anything else."""
    if given is None:
        return None
    if isinstance(given, str) or hasattr(given, "panel"):
        return {"benchmark": find_benchmark(given).make(BenchmarkConfig()) if isinstance(given, str) else given}
    if isinstance(given, Mapping):
        for role in given:
            if role not in ROLES:
                raise ConfigError(f"eval_dataset: no role named {role!r}{nearest(str(role), ROLES)}")
        return {str(role): examples_from(data, str(role)) for role, data in given.items()}
    raise ConfigError(
        'eval_dataset: expected a benchmark, or a mapping such as {"forget": rows, "retain": rows, "holdout": rows}, '
        f"got a {type(given).__name__}"
    )


def reporting_callbacks(args: UnlearnConfig) -> list[type[TrainerCallback]]:
    """The integrations' callbacks. Raises ConfigError for a name that transformers does not know."""
    if not args.reporters:
        return []
    try:
        made: list[type[TrainerCallback]] = get_reporting_integration_callbacks(list(args.reporters))
    except ValueError as error:
        raise ConfigError(f"{type(args).__name__}.report_to: {error}") from None
    return made


def shows_progress(disable: bool | None) -> bool:
    return sys.stderr.isatty() if disable is None else not disable


def shown_arguments(given: TrainingArguments, args: UnlearnConfig, method: str) -> TrainingArguments:
    """Complete the TrainingArguments that callbacks see: names, integrations, and what early stopping reads."""
    given.run_name = args.run_name or args.output_dir or method or None
    given.report_to = list(args.reporters)
    given.eval_strategy = IntervalStrategy(args.eval_strategy)
    given.metric_for_best_model = args.metric_for_best_model
    better = args.greater_is_better
    given.greater_is_better = not (args.metric_for_best_model or "").endswith("loss") if better is None else better
    return given
