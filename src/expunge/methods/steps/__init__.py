"""One step wrapper per file: a rule that turns the gradients of any loss's terms into the gradient to use.

A new file in this folder is the whole registration.
"""

from __future__ import annotations

import importlib
import pkgutil

from expunge.methods.steps.api import (
    Ask,
    Nudge,
    Step,
    StepSpec,
    Which,
    find_step,
    make_step,
    needed,
    spec_of,
    step,
    step_identity,
    step_registry,
)

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = [
    "Ask",
    "Nudge",
    "Step",
    "StepSpec",
    "Which",
    "find_step",
    "make_step",
    "needed",
    "spec_of",
    "step",
    "step_identity",
    "step_registry",
]
