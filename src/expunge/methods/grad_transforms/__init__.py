"""One gradient transform per file: a rule that combines the gradients of a loss's terms into the gradient to use.

A new file in this folder registers itself.
"""

from __future__ import annotations

from expunge.methods.grad_transforms.api import (
    GradientRequest,
    GradTransform,
    GradTransformSpec,
    Perturbation,
    TokenVectors,
    Which,
    find_step,
    grad_transform,
    grad_transform_identity,
    grad_transform_registry,
    make_grad_transform,
    needed,
    spec_of,
)

__all__ = [
    "GradientRequest",
    "Perturbation",
    "GradTransform",
    "GradTransformSpec",
    "TokenVectors",
    "Which",
    "find_step",
    "make_grad_transform",
    "needed",
    "spec_of",
    "grad_transform",
    "grad_transform_identity",
    "grad_transform_registry",
]
