"""Helpers of two examples: small models for rows of your own, and a folder in the layout of TOFU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import expunge
from expunge.pipelines.study.demo import train_small_model as trained
from expunge.pipelines.study.demo import train_small_tokenizer as tokenizer_for

__all__ = ["tofu_folder", "tokenizer_for", "trained"]


def tofu_folder(folder: Path) -> Path:
    """Write a folder in the layout of TOFU, with invented facts: forget10 and retain90."""
    sets = expunge.demo_world(authors=10, forget_fraction=0.1).benchmark.sets
    names = {
        "full": "full",
        "forget": "forget10",
        "retain": "retain90",
        "forget_eval": "forget10_perturbed",
        "retain_eval": "retain_perturbed",
        "real_authors": "real_authors_perturbed",
        "world_facts": "world_facts_perturbed",
    }
    folder.mkdir(parents=True, exist_ok=True)
    for role, name in names.items():
        lines = []
        for row in sets[role]:
            line: dict[str, Any] = {"question": row.question, "answer": row.answer}
            if name.endswith("perturbed"):
                line["perturbed_answer"] = list(row.perturbed)
                line["paraphrased_answer"] = row.answers.get("paraphrase", row.answer)
            lines.append(json.dumps(line))
        (folder / f"{name}.json").write_text("\n".join(lines) + "\n")
    return folder
