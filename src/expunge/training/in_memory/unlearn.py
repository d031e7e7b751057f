"""`unlearn`: one call from a model and examples to the model that has forgotten them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError, as_path, nearest
from expunge.training.in_memory.unlearn_config import DEFAULT_METHOD, UnlearnConfig


@dataclass(frozen=True)
class UnlearnResult:
    """The result of `unlearn`: the model, its tokenizer, the settings and the log of the run."""

    model: Any
    """The trained model: the object you passed (without `torch.compile` around it), or the peft model that wraps it."""

    tokenizer: Any
    """The tokenizer that the run used."""

    config: UnlearnConfig
    """The settings of the run."""

    method: str
    """The method's name."""

    log: Sequence[Mapping[str, float]]
    """The log: a mapping of loss, its terms, learning rate, epoch and step for each logged step."""

    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Mean training loss (nats), tokens per second and seconds of the run."""

    def to_pandas(self) -> Any:
        """Return the log as a DataFrame, a row for each logged step."""
        import pandas as pd

        return pd.DataFrame([dict(line) for line in self.log])

    def save(self, folder: str | Path) -> Path:
        """Write the model and the tokenizer as a Hugging Face folder, and return the folder."""
        from expunge.models.load import save_model

        target = as_path(folder, "save", folder=True)
        save_model(self.model, self.tokenizer, target)
        return target

    @property
    def n_steps(self) -> int:
        """Optimizer steps of the run."""
        return int(self.log[-1]["step"]) if self.log else 0

    def __repr__(self) -> str:
        last = self.log[-1] if self.log else {}
        terms = ", ".join(f"{name} {last[name]:.4g}" for name in ("loss", "forget", "retain") if name in last)
        return f"UnlearnResult({self.method}, {type(self.model).__name__}, {self.n_steps} steps" + (
            f"; last logged: {terms})" if terms else ")"
        )

    def _repr_html_(self) -> str:
        return f"<p>{self.method}, {self.n_steps} steps</p>" + str(self.to_pandas()._repr_html_())


def config_class(method: str) -> type[UnlearnConfig]:
    """Return a method's own settings class; UnlearnConfig for a method from a plugin. Raises ConfigError."""
    from expunge.methods import find
    from expunge.training.in_memory import method_configs
    from expunge.training.in_memory.method_config_source import config_name

    spec = find(method, "method")
    cls: type[UnlearnConfig] = getattr(method_configs, config_name(spec.name), UnlearnConfig)
    return cls


def unlearn(
    model: Any,
    forget: Any,
    *,
    retain: Any = None,
    tokenizer: Any = None,
    method: Any = None,
    args: UnlearnConfig | None = None,
    peft_config: Any = None,
    ref_model: Any = None,
    callbacks: Sequence[Any] = (),
    **settings: Any,
) -> UnlearnResult:
    """Make a model forget examples, in place and in memory.

    Args:
        model: A causal language model, or the name of one (a folder or a hub id).
        forget: The examples to forget: a list of dicts, a `datasets.Dataset`, a DataFrame or an `ExampleSet`.
        retain: The examples to keep.
        tokenizer: The tokenizer. None: the one next to the model's files.
        method: A method's name, a settings object, a method class, or a loss made by `unlearning_loss`. None: NPO.
        args: The settings, in place of `settings`.
        peft_config: A peft configuration; adapters are then trained.
        ref_model: The model that reference terms compare with. None: the model before its first step.
        callbacks: transformers' callbacks.
        **settings: Fields of the method's settings class, such as `learning_rate=1e-5` or `beta=0.1`. A plugin's method
            has its own fields next to those of UnlearnConfig.

    Returns:
        The model with the log of the run. Its `repr` is one line; `to_pandas()` is the log.

    Raises:
        ConfigError: If a setting or the method is wrong, before any weight is read.
        DataError: If the data cannot be read.
        JobError: If the loss is not finite or exceeds its limit.
    """
    if args is not None and settings:
        raise ConfigError(f"{next(iter(settings))}: args is set as well; set it there")
    if args is None and not (isinstance(method, UnlearnConfig) and not settings):
        args, method = _settings(method, settings)
    from expunge.training.in_memory.unlearn_trainer import UnlearnTrainer

    trainer = UnlearnTrainer(
        model, args, forget_dataset=forget, retain_dataset=retain, processing_class=tokenizer, peft_config=peft_config,
        ref_model=ref_model, callbacks=callbacks, method=method,
    )  # fmt: skip
    metrics = trainer.train().metrics
    return UnlearnResult(
        trainer.model, trainer.processing_class, trainer.args, trainer.objective.spec.name,
        [dict(line) for line in trainer.state.log_history], metrics,
    )  # fmt: skip


def _settings(method: Any, settings: Mapping[str, Any]) -> tuple[UnlearnConfig, Any]:
    """Return the settings object of keyword arguments, and the method if the object does not name it.

    Raises:
        ConfigError: If the method or a setting is unknown.
    """
    from expunge.methods import find

    named = method is None or isinstance(method, str)
    cls = config_class(method or DEFAULT_METHOD) if named else UnlearnConfig
    if isinstance(method, UnlearnConfig):
        cls = type(method)
        settings = {f.name: getattr(method, f.name) for f in dataclasses.fields(method)} | dict(settings)
    known = [f.name for f in dataclasses.fields(cls)]
    own: list[str] = []
    if named and cls.METHOD is None:  # a plugin's method, which has no settings class
        own = [f.name for f in dataclasses.fields(find(method, "method").cls) if f.name not in known]
        settings = {"method": method, **settings}
    for key in settings:
        if key not in (*known, *own):
            raise ConfigError(f"{key}: {cls.__name__} has no such setting{nearest(key, (*known, *own))}")
        if key in own and "method_args" in settings:
            raise ConfigError(f"{key}: method_args is set as well; set it there")
    if args := {key: value for key, value in settings.items() if key in own}:
        settings = {"method_args": args, **{key: value for key, value in settings.items() if key not in own}}
    config = cls(**settings)
    return config, None if named or isinstance(method, UnlearnConfig) else method
