"""A small world with models that learn it in seconds, for tutorials and first experiments: no download, no GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from expunge.benchmarks import Benchmark
from expunge.data.examples import ExampleSet
from expunge.pipelines.study.library import load_benchmark

WORLD = {"authors": 6, "questions_per_author": 4, "forget_fraction": 0.34, "facts": 6, "holdout_authors": 2}
VOCABULARY = 512


@dataclass(frozen=True)
class DemoWorld:
    """Invented authors and their books, a tokenizer, and small models. `demo_world` makes one."""

    benchmark: Benchmark
    """The embedded benchmark: examples by name, with perturbed answers, and metrics."""

    tokenizer: Any
    """A tokenizer that is trained on the questions and answers."""

    def __repr__(self) -> str:
        return (
            f"DemoWorld({len(self.forget)} rows to forget, {len(self.retain)} to keep, {len(self.holdout)} never seen)"
        )

    @property
    def forget(self) -> ExampleSet:
        """The examples to forget: all questions about two of six authors."""
        return self.benchmark.sets["forget"]

    @property
    def retain(self) -> ExampleSet:
        """The examples to keep."""
        return self.benchmark.sets["retain"]

    @property
    def holdout(self) -> ExampleSet:
        """Questions of the same kind about authors that no model has seen."""
        return self.benchmark.sets["holdout"]

    def target_model(self, *, seed: int = 0) -> Any:
        """Return a new model that has learned all examples."""
        return train_small_model(self.benchmark.sets["full"], self.tokenizer, seed=seed)

    def retain_model(self, *, seed: int = 0) -> Any:
        """Return a new model that has learned everything but the forget examples."""
        return train_small_model(self.retain, self.tokenizer, seed=seed)


def demo_world(**settings: Any) -> DemoWorld:
    """Return a small world of invented authors, to try methods and audits on.

    Args:
        **settings: Settings of the world, such as `authors=10` or `seed=1`; see `expunge help data.world`.

    Returns:
        The world: its examples, a tokenizer, and functions that train a target and a retain model. Each model is a
        Llama with 64,000 parameters and takes some seconds on a CPU.

    Raises:
        ConfigError: If a setting is wrong.
    """
    benchmark = load_benchmark("world", world={**WORLD, **settings})
    return DemoWorld(benchmark, train_small_tokenizer(benchmark.sets["full"]))


def train_small_tokenizer(examples: Any) -> Any:
    """Return a tokenizer of 512 tokens that is trained on these examples."""
    from expunge.models.build import train_tokenizer

    texts = [text for row in examples for text in (row.question, row.answer)]
    return train_tokenizer(texts, VOCABULARY, max_length=VOCABULARY)


def train_small_model(examples: Any, tokenizer: Any, *, epochs: int = 40, seed: int = 0) -> Any:
    """Return a new model of 64,000 parameters that has learned these examples."""
    from expunge.models.build import build_llama
    from expunge.training.in_memory.method_configs import FinetuneConfig
    from expunge.training.in_memory.unlearn_trainer import UnlearnTrainer

    model = build_llama("llama-64k", tokenizer, vocab_size=VOCABULARY, seed=seed)
    settings = FinetuneConfig(
        learning_rate=1e-2,
        num_train_epochs=epochs,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=1,
        disable_tqdm=True,
    )
    UnlearnTrainer(model, settings, retain_dataset=examples, processing_class=tokenizer).train()
    return model
