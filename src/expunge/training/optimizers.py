"""Optimizers: those of transformers, a class of torch, torchao or bitsandbytes by its name, and registered classes.

A file in `training/optimizer_rules` or a plugin registers a class with `@optimizer("name", revision=1)`. The class is
called with the trained parameters, `lr`, `weight_decay` and the settings of `optim_args`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from expunge.core.errors import ConfigError, first_line, nearest
from expunge.core.registry import Registry

if TYPE_CHECKING:
    from expunge.training.config import TrainArgs

STOCHASTIC = "adamw_torch_8bit_stochastic"
"""torchao's 8-bit AdamW over bfloat16 weights: an update is rounded up or down at random, so small ones count on
average.
"""
OF_TORCHAO = ("adamw_torch_8bit", "adamw_torch_4bit", STOCHASTIC)
ON_CPU = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd")
OPTIMIZERS = (
    *ON_CPU, *OF_TORCHAO, "paged_adamw_32bit", "paged_adamw_8bit", "adamw_8bit", "adamw_bnb_8bit", "lion_32bit",
    "lion_8bit", "paged_lion_32bit", "paged_lion_8bit",
)  # fmt: skip
PACKAGES = ("torch", "torchao", "bitsandbytes")
SHARED = {"lr": "learning_rate", "weight_decay": "weight_decay"}  # an argument of a class -> the setting of the run


@dataclass(frozen=True)
class OptimizerSpec:
    """A registered optimizer: its class, and the number to increase when its results change."""

    name: str
    revision: int
    cls: type[Any]
    paper: str = ""


_REGISTRY: Registry[OptimizerSpec] = Registry(
    "optimizer", lambda spec: spec.cls, folder="training/optimizer_rules", decorator="optimizer"
)
C = TypeVar("C", bound=type[Any])


def optimizer(name: str, *, revision: int, paper: str = "") -> Callable[[C], C]:
    """Register a torch optimizer class under the name that users type in `optim`."""

    def register(cls: C) -> C:
        _REGISTRY.add(OptimizerSpec(name, revision, cls, paper))
        return cls

    return register


def own_optimizer(optim: str) -> bool:
    """Return whether an optimizer is a class by its name, or a registered one, so transformers does not create it."""
    return optim in _REGISTRY or (optim.partition(".")[0] in PACKAGES and "." in optim)


def optimizer_problem(optim: str) -> str:
    """Return why a name is no optimizer; empty for one that may exist. Imports nothing."""
    if optim in OPTIMIZERS or own_optimizer(optim):
        return ""
    return f"must be a class such as torch.optim.NAdam, or a known name{nearest(optim, [*OPTIMIZERS, *_REGISTRY])}"


def optimizer_identity(optim: str) -> str | dict[str, Any]:
    """Return the part of a fingerprint: the name, and of a registered optimizer its revision."""
    return {"name": optim, "revision": _REGISTRY[optim].revision} if optim in _REGISTRY else optim


def check_optimizer(args: TrainArgs, where: str = "trainer.args") -> None:
    """Raise ConfigError for an optimizer that is not installed, does not exist, or cannot train a model."""
    optim = args.optim
    if optim in OF_TORCHAO and importlib.util.find_spec("torchao") is None:
        raise ConfigError(f"{where}.optim: {optim} needs torchao: pip install torchao, or use adamw_torch")
    if not own_optimizer(optim):
        if args.optim_args:
            raise ConfigError(
                f"{where}.optim_args: {optim} takes none; they belong to a class such as torch.optim.NAdam"
            )
        return
    cls = _class_of(optim, f"{where}.optim")
    allowed = inspect.signature(cls).parameters
    for key in args.optim_args:
        if key in SHARED:
            raise ConfigError(f"{where}.optim_args.{key}: set {where}.{SHARED[key]} instead")
        if key not in allowed or key == "params":
            raise ConfigError(f"{where}.optim_args.{key}: {optim} has no such setting{nearest(key, allowed)}")
    _try(cls, args, where)


def _try(cls: type[Any], args: TrainArgs, where: str) -> None:
    """Raise ConfigError if an optimizer refuses its settings or matrices, or one of torch a step on a CPU."""
    import torch

    weights = [torch.zeros(2, 2, requires_grad=True) for _ in range(2)]
    with refused_weights(args, where):
        trial = cls([{"params": [weight]} for weight in weights], **_settings(cls, args))
        if args.optim.startswith("torch."):
            for weight in weights:
                weight.grad = torch.ones_like(weight)
            trial.step()


@contextlib.contextmanager
def refused_weights(args: TrainArgs, where: str = "trainer.args") -> Iterator[None]:
    """Name the setting if a class by its name, or a registered one, raises within the block."""
    try:
        yield
    except Exception as error:  # each class checks its settings in its own way
        if not own_optimizer(args.optim):
            raise
        own = f" with optim_args={dict(args.optim_args)}" if args.optim_args else ""
        raise ConfigError(f"{where}.optim: {args.optim}{own} cannot train these weights: {first_line(error)}") from None


def _settings(cls: type[Any], args: TrainArgs) -> dict[str, Any]:
    """Return the settings of a class: those of the run that it takes, and `optim_args`."""
    known = inspect.signature(cls).parameters
    shared = {key: getattr(args, name) for key, name in SHARED.items() if key in known}
    return {**shared, **args.optim_args}


def weights_dtype(optim: str) -> Literal["float32", "bfloat16"]:
    """Return the dtype of the weights during training."""
    return "bfloat16" if optim == STOCHASTIC else "float32"


def optimizer_class(args: TrainArgs, device: str) -> tuple[type[Any], dict[str, Any]] | None:
    """Return class and settings of an optimizer that transformers does not create; None for all others.

    Raises ConfigError for STOCHASTIC on a CPU: its weights are in bfloat16, which no optimizer of a CPU can train well.
    """
    if own_optimizer(args.optim):
        cls = _class_of(args.optim, "trainer.args.optim")
        return cls, _settings(cls, args)
    if args.optim != STOCHASTIC:
        return None
    if device == "cpu":
        raise ConfigError(f"trainer.args.optim: {STOCHASTIC} needs an accelerator; use adamw_torch on a CPU")
    settings = {
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
        "weight_decay": args.weight_decay,
        "bf16_stochastic_round": True,
    }
    return importlib.import_module("torchao.optim").AdamW8bit, settings


def _class_of(optim: str, where: str) -> type[Any]:
    """Return the class of a registered name, or of a dotted name. Raises ConfigError if there is none."""
    if optim in _REGISTRY:
        return _REGISTRY[optim].cls
    package = optim.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"{where}: {optim} needs {package}: pip install {package}, or use adamw_torch")
    module_name, _, name = optim.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"{where}: {optim}: {error}") from None
    cls = getattr(module, name, None)
    if not isinstance(cls, type) or not hasattr(cls, "step"):
        names = [n for n, value in vars(module).items() if isinstance(value, type) and hasattr(value, "step")]
        raise ConfigError(f"{where}: {module_name} has no optimizer {name!r}{nearest(name, names)}")
    return cls
