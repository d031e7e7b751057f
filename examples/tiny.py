"""Small models for the other examples: a Llama with 64,000 parameters that learns invented facts in seconds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import expunge
from expunge.models.build import build_llama, train_tokenizer

WORLD = {"authors": 6, "questions_per_author": 4, "forget_fraction": 0.34, "facts": 6, "holdout_authors": 2}


def world() -> expunge.Benchmark:
    """The embedded benchmark: questions about invented authors."""
    return expunge.load_benchmark("world", world=WORLD)


def tokenizer_for(examples: Iterable[expunge.Example]) -> Any:
    """A tokenizer that is trained on these examples."""
    texts = [text for row in examples for text in (row.question, row.answer)]
    return train_tokenizer(texts, 512, max_length=512)


def trained(examples: Any, tokenizer: Any, *, epochs: int = 40, seed: int = 0) -> Any:
    """A new model that has learned these examples."""
    model = build_llama("llama-64k", tokenizer, vocab_size=512, seed=seed)
    settings = expunge.FinetuneConfig(
        learning_rate=1e-2, num_train_epochs=epochs, per_device_train_batch_size=8, gradient_accumulation_steps=1
    )
    expunge.UnlearnTrainer(model, settings, retain_dataset=examples, processing_class=tokenizer).train()
    return model


def full_model() -> tuple[expunge.Benchmark, Any, Any]:
    """The benchmark, the tokenizer, and the full model, which is trained on everything."""
    benchmark = world()
    tokenizer = tokenizer_for(benchmark.sets["full"])
    return benchmark, tokenizer, trained(benchmark.sets["full"], tokenizer)


def retain_model(benchmark: expunge.Benchmark, tokenizer: Any) -> Any:
    """The retain model, which never saw the forget examples."""
    return trained(benchmark.sets["retain"], tokenizer)


def tofu_folder(folder: Path) -> Path:
    """Write a folder in the layout of TOFU, with invented facts: forget10 and retain90."""
    sets = expunge.load_benchmark("world", world={**WORLD, "authors": 10, "forget_fraction": 0.1}).sets
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
