"""Modules that are imported when one of their names is first used.

A plan, a wrong setting and a cached result need the names and settings of methods and jobs, and no tensors. So files
that describe work take torch, and the modules that do the work, from here. `stand_ins` does the same for the optional
dependencies of other packages: transformers' Trainer imports peft, bitsandbytes and datasets, which few runs use.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["F", "ModuleOnUse", "import_model_base", "stand_ins", "torch", "transformers"]


class ModuleOnUse:
    """A module that is imported when one of its names is first read. without: packages that get `stand_ins` then."""

    def __init__(self, name: str, *, without: Sequence[str] = ()) -> None:
        self._name, self._without = name, without

    def __getattr__(self, attribute: str) -> Any:
        imported = sys.modules.get(self._name)
        if imported is not None and attribute in vars(imported):
            return getattr(imported, attribute)
        with stand_ins(*self._without):
            return getattr(importlib.import_module(self._name), attribute)


if TYPE_CHECKING:
    import torch
    import torch.nn.functional as F
    import transformers
else:
    torch = ModuleOnUse("torch")
    F = ModuleOnUse("torch.nn.functional")
    transformers = ModuleOnUse("transformers", without=("peft", "datasets", "scipy", "sklearn"))


def import_model_base() -> None:
    """Import the base class of transformers' models without scipy; a model's own file would import it with scipy."""
    _ = transformers.PreTrainedModel


class NameOnUse:
    """A class or function of a module that is not imported yet.

    A call, a read attribute and a subclass import the module. `isinstance` does not: before the import, nothing is an
    instance of its classes.
    """

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def _value(self) -> Any:
        return getattr(importlib.import_module(self._module), self._name)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._value(), attribute)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._value()(*args, **kwargs)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._value(),)

    def __instancecheck__(self, instance: object) -> bool:
        return self._module in sys.modules and isinstance(instance, self._value())

    def __subclasscheck__(self, subclass: type) -> bool:
        return self._module in sys.modules and issubclass(subclass, self._value())


class StandIn(ModuleType):
    """A module of a package that is not imported; each of its names is a `NameOnUse`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}: it is not imported yet")
        return NameOnUse(self.__name__, name)


class _StandInFinder(MetaPathFinder, Loader):
    """Finds a stand-in for each module of the packages."""

    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.split(".")[0] in self._packages else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: a stand-in has no code."""


@contextmanager
def stand_ins(*packages: str) -> Iterator[None]:
    """Import modules inside this context without importing the packages that these modules import.

    They get stand-ins, whose names import the package when they are used. A package that is already imported, or that
    is not installed, is left as it is. Later imports of a package elsewhere are real ones.
    """
    absent = [p for p in packages if p not in sys.modules and PathFinder.find_spec(p) is not None]
    finder = _StandInFinder(absent)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [n for n, module in sys.modules.items() if isinstance(module, StandIn)]:
            del sys.modules[name]
