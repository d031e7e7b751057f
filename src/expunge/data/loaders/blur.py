"""BLUR (Hu et al. 2025, arXiv:2506.15699): questions that mix rows to forget with rows to keep."""

from __future__ import annotations

from pathlib import Path

from expunge.core.errors import DataError
from expunge.data.examples import ExampleSet, text_rows
from expunge.data.source import is_hub_id, load_raw

HUB_ID = "forgelab/BLUR"
TASKS = ("whp", "rwku", "wmdp", "tofu")
VARIANTS = {
    "forget": "{task}_forget",
    "retain": "{task}_retain",
    "combined": "{task}_paired_forget_retain",
    "relearn_hi": "{task}_D_hi",
    "relearn_mid": "{task}_D_mid",
    "relearn_lo": "D_lo_for_all",
}


def load_blur(root: str, task: str, *, max_length: int) -> tuple[dict[str, ExampleSet], tuple[str, ...]]:
    """Return the sets of a task, and the names of the sets that the source lacks.

    `forget` and `retain` (questions about one side), `combined` (questions about both at once) and the texts of the
    relearning attacks: `relearn_hi`, `relearn_mid`, `relearn_lo`, from close to the forget set to far from it. The
    published files have one column, text: a question has no true answer. Raises DataError without a `combined` file.

    root: the hub id or a folder of TASK_forget.json, TASK_retain.json, TASK_paired_forget_retain.json, TASK_D_hi.json,
    TASK_D_mid.json and D_lo_for_all.json (or other extensions).
    """
    sets: dict[str, ExampleSet] = {}
    missing = []
    for name, file in VARIANTS.items():
        stem = file.format(task=task)
        if not is_hub_id(root) and not any(Path(root).expanduser().glob(f"{stem}.*")):
            missing.append(name)
            continue
        if task == "tofu" and name != "combined" and is_hub_id(root):
            missing.append(name)  # the hub has the combined questions alone
            continue
        raw, where = load_raw(stem, root=root)
        sets[name] = text_rows(raw, name=name, where=where, max_length=max_length)
    if "combined" not in sets:
        raise DataError(f"{root}: no {VARIANTS['combined'].format(task=task)}.json, the questions about both sides")
    return sets, tuple(missing)
