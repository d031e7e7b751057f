"""Rows from a rule and a seed: tasks that a small model learns, to study the effects of fine-tuning on them."""

from expunge.data.procedural.closed_form import ClosedFormConfig, closed_form_tasks
from expunge.data.procedural.pcfg import Grammar, PcfgConfig, make_grammar, pcfg_tasks
from expunge.data.procedural.sets import ProceduralTasks, SetSizes, most_common_share, task_sets

__all__ = [
    "ClosedFormConfig",
    "Grammar",
    "PcfgConfig",
    "SetSizes",
    "ProceduralTasks",
    "closed_form_tasks",
    "make_grammar",
    "most_common_share",
    "pcfg_tasks",
    "task_sets",
]
