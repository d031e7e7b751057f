from __future__ import annotations

from dataclasses import dataclass

import pytest

from expunge.core.errors import ConfigError
from expunge.core.registry import Registry


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
    made: Registry[Entry] = Registry("food", lambda entry: entry.cls)
    made.add(Entry("egg", Egg), aliases=["oeuf"])
    made.add(Entry("Ham", Ham))
    return made


def test_entries_are_listed_by_the_alphabet_and_found_by_name_and_alias(shelf: Registry[Entry]) -> None:
    shelf.add(Entry("bun", type("Bun", (), {})))
    assert list(shelf.all()) == ["bun", "egg", "Ham"]
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
    with pytest.raises(ConfigError, match=r"^no food named 'x' \(allowed: Ham, egg, oeuf\)$"):
        shelf.find("x")
    with pytest.raises(ConfigError, match=r"^food: Registry is not registered"):
        shelf.of(shelf)


def test_what_is_removed_takes_its_aliases_with_it(shelf: Registry[Entry]) -> None:
    shelf.remove("egg")
    shelf.remove("never there")
    assert list(shelf.all()) == ["Ham"]
    with pytest.raises(ConfigError, match="no food named 'oeuf'"):
        shelf.find("oeuf")
