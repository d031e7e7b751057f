"""Finished models as the runs of a study, which then trains nothing. Importing this module loads no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from expunge.core.errors import ConfigError
from expunge.core.names import check_name
from expunge.models.config import ModelConfig
from expunge.models.identity import pinned

if TYPE_CHECKING:
    from expunge.pipelines.study.config import FinishedModel, StudyConfig


def check_finished(study: StudyConfig) -> None:
    """Check the finished models of a study, and the settings that they exclude. Raises ConfigError."""
    models = study.finished_models
    if not models:
        if study.retain_logs_path is not None:
            raise ConfigError(
                "retain_logs_path: this study trains its own retain model; use it with `finished_models`, or in "
                "`expunge eval`"
            )
        return
    excluded = {
        "methods": study.methods,
        "meta": study.meta,
        "stories": study.stories,
        "requests": study.requests != 1,
        "sweep.trials": study.sweep.trials,
        "seeds.train": len(study.seeds.train) > 1,
        "seeds.unlearn": len(study.seeds.unlearn) > 1,
    }
    for key, value in excluded.items():
        if value:
            raise ConfigError(f"{key}: a study of finished models (`finished_models`) trains nothing; leave it out")
    names = [model.name for model in models]
    for i, model in enumerate(models):
        if model.role == "unlearn" and model.label is None:
            raise ConfigError(f"finished_models[{i}].label: missing; an unlearned model needs a name")
        if model.role != "unlearn" and model.label is not None:
            raise ConfigError(f"finished_models[{i}].label: reports call this model {model.role}; leave label out")
        check_name(model.name, f"finished_models[{i}].label", nested=True)
        if names.count(model.name) > 1:
            problem = "label: two models have" if model.role == "unlearn" else "role: two models have the role"
            raise ConfigError(f"finished_models[{i}].{problem} {model.name!r}; give each one its own")


def in_report_order(models: Sequence[FinishedModel]) -> list[FinishedModel]:
    """Return the full model, the retain model, then the others in their order."""
    return sorted(models, key=lambda model: ("full", "retain", "unlearn").index(model.role))


def model_of(config: ModelConfig, source: str, revision: str | None) -> ModelConfig:
    """Return the model settings of a study with another source and its own tokenizer, at the commit of a hub id."""
    args = dataclasses.replace(config.model_args, pretrained_model_name_or_path=source, revision=revision)
    tokens = config.tokenizer_args
    if tokens.pretrained_model_name_or_path is None:  # its revision is that of the configured model's repository
        tokens = dataclasses.replace(tokens, revision=None)
    return pinned(dataclasses.replace(config, model_args=args, tokenizer_args=tokens))


def derivation_args(config: ModelConfig) -> Mapping[str, Any]:
    """Return the arguments of the derivation `finished`, which gives the context of a finished model."""
    return {"source": config.source, "revision": config.model_args.revision}
