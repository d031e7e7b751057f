"""One audit per file: an attack or analysis of every unlearned model and its two controls, and its interpretation.

A new file in this folder registers itself.
"""

from __future__ import annotations

from expunge.audits.api import (
    Analysis,
    Audit,
    AuditFindings,
    AuditInputs,
    AuditOutputs,
    AuditPlan,
    AuditProbe,
    AuditSpec,
    Change,
    Models,
    Nf4Spec,
    RelearnSpec,
    audit,
    audit_registry,
    make_audit,
)
from expunge.metrics.equivalence import AuditFinding

__all__ = [
    "Audit",
    "AuditSpec",
    "Change",
    "AuditPlan",
    "AuditOutputs",
    "AuditInputs",
    "Analysis",
    "Models",
    "Nf4Spec",
    "AuditProbe",
    "AuditFinding",
    "RelearnSpec",
    "AuditFindings",
    "audit",
    "audit_registry",
    "make_audit",
]
