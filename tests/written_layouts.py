"""Files in the layouts of other projects, which several tests write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


def write_graph(folder: Path, world: Any) -> None:
    """Write the graph and the rows of a world as arcsf's gen_tofu has its own."""
    items = {key: {"type": e.type, "data": {"key": key, "name": e.name}} for key, e in world.entities.items()}
    rows = [
        {
            **{"keys": row.meta["keys"], "question": row.question, "answer": row.answer},
            **{"paraphrased_question": row.paraphrased_question, "paraphrased_answer": row.answers["paraphrase"]},
            **{"perturbed_answers": row.perturbed, "paraphrased_perturbed_answers": row.perturbed},
        }
        for row in world.sets["full"]
    ]
    folder.mkdir(exist_ok=True)
    (folder / "all_items.json").write_text(json.dumps(items))
    (folder / "all_connections.csv").write_text("".join(f"{link.source},{link.target}\n" for link in world.links))
    (folder / "questions.json").write_text(json.dumps(rows))


def write_choice_task(folder: Path, questions: Path, metrics: Sequence[str] = ("acc",), **more: str) -> None:
    """Write a task of lm-evaluation-harness, `tiny_choice`, over the questions of a file and their options."""
    folder.mkdir()
    task = {
        **{"task": "tiny_choice", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(questions)}}},
        **{"test_split": "test", "fewshot_split": "test", "output_type": "multiple_choice"},
        **{"doc_to_text": "{{question}}\nAnswer:", "doc_to_choice": "choices", "doc_to_target": "answer", **more},
        "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in metrics],
    }
    (folder / "tiny_choice.yaml").write_text(yaml.safe_dump(task))
