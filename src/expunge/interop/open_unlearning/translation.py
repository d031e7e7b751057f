"""The words of one command while they are translated from OpenUnlearning's names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from expunge.core.errors import ConfigError
from expunge.interop.open_unlearning.datasets import BENCHMARKS

FAMILIES = ("tofu", "muse", "wmdp")


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
        return is_theirs(self.values.get("experiment", ""))

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


def is_theirs(experiment: str) -> bool:
    """Return whether an experiment has a name of OpenUnlearning's."""
    parts = experiment.removesuffix(".yaml").split("/")
    return len(parts) == 3 and parts[0] in ("unlearn", "eval", "finetune") and parts[1] in FAMILIES


def notes_on_bounds(mode: str, tree: Mapping[str, Any]) -> list[str]:
    """Return the line on PDU's bound on the retain loss if the user did not set it; OpenUnlearning requires it."""
    trainer = tree["trainer"]
    if mode != "unlearn" or trainer["handler"] != "PDU" or "retain_loss_eps" in (trainer.get("method_args") or {}):
        return []
    from expunge.methods.pdu import PDU

    return [
        f"trainer.method_args.retain_loss_eps={PDU.retain_loss_eps:g} is the bound of PDU's own TOFU script; set it "
        "somewhat above the retain loss of your model (OpenUnlearning has no default)"
    ]
