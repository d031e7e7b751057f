from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from expunge.audits.api import audit_registry
from expunge.benchmarks.api import benchmarks
from expunge.core.errors import ConfigError
from expunge.core.registry import Registry, shipped_entries
from expunge.evaluation.kinds import kinds
from expunge.methods.api import registry
from expunge.methods.grad_transforms.api import grad_transform_registry
from expunge.methods.weight_edits.api import weight_edit_registry
from expunge.metrics.api import families
from expunge.training.rewards import rewards


@dataclass(frozen=True)
class Entry:
    name: str
    cls: type


class Ham:
    pass


class Egg:
    pass


@pytest.fixture
def shelf() -> Registry[Entry]:
    result: Registry[Entry] = Registry("food", lambda entry: entry.cls)
    result.add(Entry("egg", Egg), aliases=["oeuf"])
    result.add(Entry("Ham", Ham))
    return result


def test_entries_are_listed_by_the_alphabet_and_found_by_name_and_alias(shelf: Registry[Entry]) -> None:
    shelf.add(Entry("bun", type("Bun", (), {})))
    assert list(shelf) == ["bun", "egg", "Ham"]
    assert shelf.find("oeuf") is shelf.find("egg") is shelf.of(Egg())


def test_a_name_is_taken_once_and_a_module_may_be_loaded_anew(shelf: Registry[Entry]) -> None:
    with pytest.raises(ConfigError, match=r"^food egg: registered twice, by <class .*Egg'> and <class .*Ham'>$"):
        shelf.add(Entry("egg", Ham))
    again = type("Egg", (), {"__qualname__": Egg.__qualname__})
    shelf.add(Entry("egg", again))
    assert shelf.find("egg").cls is again


def test_what_is_not_there_is_answered_with_the_nearest(shelf: Registry[Entry]) -> None:
    with pytest.raises(
        ConfigError, match=r"^menu: no food named 'ouef'; did you mean 'oeuf'\? \(allowed: .*\); no jam"
    ):
        shelf.find("ouef", "menu", rule="; no jam")
    with pytest.raises(ConfigError, match=r"^no food named 'x' \(allowed: Ham, egg, oeuf\); --plugin FILE.py"):
        shelf.find("x")
    with pytest.raises(ConfigError, match=r"^food: Registry is not registered"):
        shelf.of(shelf)


def test_what_is_removed_takes_its_aliases_with_it(shelf: Registry[Entry]) -> None:
    shelf.remove("egg")
    shelf.remove("never there")
    assert list(shelf) == ["Ham"]
    with pytest.raises(ConfigError, match="no food named 'oeuf'"):
        shelf.find("oeuf")


ROOMS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "methods": ("method", registry()),
    "methods/grad_transforms": ("grad_transform", grad_transform_registry()),
    "methods/weight_edits": ("weight_edit", weight_edit_registry()),
    "metrics": ("family", families()),
    "benchmarks": ("benchmark", benchmarks()),
    "audits": ("audit", audit_registry()),
    "evaluation": ("record_kind", kinds()),
    "training/rewards": ("reward", rewards()),
}


@pytest.mark.parametrize("folder", ROOMS)
def test_the_names_in_the_sources_are_those_that_imports_register(folder: str) -> None:
    """A registration that a reader of the source cannot see, such as one in a loop, would have no name here."""
    decorator, entries = ROOMS[folder]
    listed = {entry.name: entry.module for entry in shipped_entries(folder, decorator)}
    package = importlib.import_module(f"expunge.{folder.replace('/', '.')}")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    own = {
        name: entries._made_of(entry).__module__  # type: ignore[attr-defined]
        for name, entry in entries._entries.items()  # type: ignore[attr-defined]
    }
    assert listed == {name: module for name, module in own.items() if module.startswith(f"{package.__name__}.")}


def test_an_entry_of_the_package_is_imported_when_it_is_read_and_its_name_is_taken() -> None:
    result: Registry[Entry] = Registry("audit", lambda entry: entry.cls, folder="audits", decorator="audit")
    assert "relearn" in result and "relearn" not in result._entries
    with pytest.raises(KeyError):
        result["no_such_audit"]
