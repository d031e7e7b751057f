"""Resolve the loss of a run in memory from a name, a settings class, a method's own class or a loss function."""

from __future__ import annotations

import dataclasses
from typing import Any

from expunge.core.decode import decode
from expunge.core.errors import ConfigError, kind_of
from expunge.methods import MethodSpec, registry
from expunge.methods.custom_loss import CustomLoss
from expunge.methods.objective import Objective, TermWeights, objective
from expunge.training.in_memory.unlearn_config import SHARED, UnlearnConfig


def resolve_objective(config: UnlearnConfig, method: Any = None) -> Objective:
    """Return the loss of a run.

    Args:
        config: The run's settings. Its shared weights (`gamma`, `alpha`, ...) count for every kind of method.
        method: None (the config names it); a registered name, class or object; a settings object such as
            `NPOConfig(beta=0.2)`; or a function decorated with `unlearning_loss`.

    Raises:
        ConfigError: If the method is unknown or contradicts the config, or a setting is wrong.
    """
    if method is None:
        return config.objective()
    if isinstance(method, type) and issubclass(method, UnlearnConfig):
        raise ConfigError(f"method: {method.__name__} is a class of settings; give an object: {method.__name__}()")
    where = type(config).__name__
    if config.METHOD is not None and method != config.METHOD:
        raise ConfigError(f"method: args is {kind_of(config)}; leave method out, or use UnlearnConfig")
    if isinstance(method, str):
        if config.method not in (None, method):
            raise ConfigError(f"method: {method!r} contradicts args.method={config.method!r}; give one of them")
        return dataclasses.replace(config, method=method).objective()
    if isinstance(method, UnlearnConfig):
        return method.objective()
    if config.method is not None or config.method_args:
        raise ConfigError(f"{where}.method and method_args have no effect with a method object; leave them out")
    shared = {name: value for name in SHARED if (value := getattr(config, name)) is not None}
    if isinstance(method, CustomLoss):
        return _custom(method, shared, where)
    spec = _registered(method)
    if spec is None:
        raise ConfigError(
            f"method: {getattr(method, '__name__', repr(method))} is not a method; decorate a loss function with "
            "@expunge.unlearning_loss(forget='logps'), or register a class with @method"
        )
    settings = method() if isinstance(method, type) else method
    own = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    return objective(spec.name, {**{k: v for k, v in shared.items() if k not in own}, **own}, where=where)


def _registered(method: Any) -> MethodSpec | None:
    """Return the registry entry of a method class, or of an object of one; None if there is none."""
    cls = method if isinstance(method, type) else type(method)
    return next((spec for spec in registry().values() if spec.cls is cls), None)


def _custom(loss: CustomLoss, shared: dict[str, Any], where: str) -> Objective:
    base = {"gamma": loss.spec.gamma, "alpha": loss.spec.alpha, "retain_loss_type": loss.spec.retain_loss_type}
    if loss.spec.retain_loss_type is None and "retain_loss_type" not in shared:
        base["alpha"] = 0.0
    weights = decode(TermWeights, base | shared, where=where)
    return Objective(spec=loss.spec, method=loss, weights=weights)
