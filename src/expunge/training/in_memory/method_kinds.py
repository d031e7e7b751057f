"""The kinds of methods that are no losses, for messages about a name that stands in the place of a loss."""

from __future__ import annotations

from expunge.methods.api import registry


def other_kind(name: str) -> str:
    """Return the kind and the use of a method that is no loss, as part of a sentence; "" for any other name."""
    if name in registry():
        return ""
    from expunge.methods.grad_transforms import grad_transform_registry
    from expunge.methods.weight_edits import weight_edit_registry
    from expunge.models.wrapper_api import wrapper_registry

    study = "name it in `methods` of a study (`expunge run`)"
    if name in weight_edit_registry():
        return f"it is a weight edit: {study}"
    if name in wrapper_registry():
        return f"it is a wrapper: {study}, or call expunge.wrap(model, {name!r}, ...) in Python"
    if name in grad_transform_registry():
        return f"it is a gradient transform: set grad_transform={name!r} in the training settings of a method"
    return ""
