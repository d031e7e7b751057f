"""The words of one command while they are translated from OpenUnlearning's names."""

from __future__ import annotations

from dataclasses import dataclass, field

from expunge.core.errors import ConfigError
from expunge.interop.open_unlearning.datasets import BENCHMARKS


@dataclass
class Translation:
    """The words of one command while they are translated."""

    mode: str
    values: dict[str, str]
    out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def benchmark(self) -> str:
        """The benchmark that the experiment names, such as tofu; empty if it names none."""
        parts = self.values.get("experiment", "").split("/")
        return parts[1] if len(parts) == 3 and parts[1] in BENCHMARKS else ""

    @property
    def theirs(self) -> bool:
        """Whether the experiment has a name of OpenUnlearning's."""
        experiment = self.values.get("experiment", "")
        if not experiment:
            return False
        from expunge.interop.open_unlearning.differences import is_theirs

        return is_theirs(experiment)

    def add(self, key: str, value: str, old: str = "") -> None:
        """Add a word, with a note if it has another name than the user's."""
        word = f"{key}={value}"
        if old and old.partition("=")[0] != key:
            self.notes.append(f"{old} is now {word if '=' in old or old.startswith('~') else key}")
        if word not in self.out:
            self.out.append(word)

    def rename(self, old: str, key: str, value: str, reach: str = "") -> None:
        """Add a word under its name here. reach: a further reader of the setting, for the note.

        Raises ConfigError if another word gives the same setting another value.
        """
        other = self.values.setdefault(key, value)
        if other.lower() != value.lower() and "${" not in other + value:
            raise ConfigError(
                f"{old}={value}: {key}={other} is another value of the same setting here; give one of the two words"
            )
        self.add(key, value)
        self.notes.append(f"{old} is now {key}{reach}")
