"""The verbs of the library that look benchmarks up by name: `evaluate` and `load_benchmark`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expunge.benchmarks import Benchmark, BenchmarkConfig, find_benchmark
from expunge.benchmarks.extras import EXTRAS, with_extras
from expunge.benchmarks.in_memory import in_memory_benchmark
from expunge.core.decode import decode
from expunge.core.errors import ConfigError, as_list, keys_named, kind_of, nearest
from expunge.data.refusals import REFUSALS
from expunge.data.template import Template
from expunge.evaluation.config import Generation
from expunge.evaluation.evaluator import SAMPLING, RetainResults, evaluate_task, resolve_generation
from expunge.evaluation.result import EvalResult
from expunge.judges.api import Judge
from expunge.metrics.api import Metric
from expunge.pipelines.study_jobs.judging import generation_judge

ARGUMENTS = {f"eval.{name}": name for name in ("embedder", "extras", "generation", "judge", "metrics", "original")}


def load_benchmark(name: str, **choices: Any) -> Benchmark:
    """Load a benchmark by name.

    Args:
        name: The name, such as "tofu"; `expunge list benchmarks` lists all.
        **choices: The fields of BenchmarkConfig, such as `forget_split`, `holdout_split`, `root` and `args`.

    Returns:
        The benchmark: its examples by name, their roles, and its metrics.

    Raises:
        ConfigError: If the name or a choice is wrong. DataError: If its files are missing or damaged.
    """
    return find_benchmark(name).make(decode(BenchmarkConfig, choices, where="load_benchmark"))


def evaluate(
    model: Any,
    tokenizer: Any = None,
    *,
    benchmark: Benchmark | str | None = None,
    forget: Any = None,
    retain: Any = None,
    holdout: Any = None,
    metrics: Sequence[str | Metric] | None = None,
    retain_results: RetainResults | Sequence[RetainResults] | None = None,
    template: Template | Mapping[str, Any] | None = None,
    generation: Generation | Mapping[str, Any] | None = None,
    sampling: Generation | Mapping[str, Any] | None = None,
    original: Any = None,
    embedder: str | None = None,
    judge: Judge | Mapping[str, Any] | None = None,
    extras: Sequence[str] = (),
    batch_tokens: int | None = None,
    seed: int = 0,
) -> EvalResult:
    """Measure a model in memory: on a benchmark, or on your own examples.

    No file is written and no store is used. The model keeps its mode (train or eval), its device and its dtype.

    Args:
        model: A causal language model, or its name (a folder or hub id, loaded in float32 on the first accelerator).
        tokenizer: Its tokenizer, or the tokenizer's name. A model given by name needs none.
        benchmark: A benchmark (see `load_benchmark`) or its name. Either this, or the three data arguments.
        forget: Examples to be forgotten: a list of dicts, a `datasets.Dataset`, a DataFrame or an ExampleSet, with
            question and answer, prompt and completion, messages, or text.
        retain: Examples to be kept.
        holdout: Examples like those to be forgotten that no model has seen. They add the membership attacks.
        metrics: Names of metrics of the benchmark, or of the data; names of metric families that declare their records
            (a plugin's), or Metric objects. Metrics that they read are added. None: all.
        retain_results: Results of a retain model on the same examples: an EvalResult, or the path of its folder or EVAL
            file. Forget quality and PrivLeak need them. A list has one for each training seed: forget quality compares
            with the first, attacks with reference models (LiRA) with all.
        template: How an example becomes text: a Template, or a mapping of its fields. None: the tokenizer's chat
            template if it has one, else the tags "Question: " and "Answer: ".
        generation: How texts are generated: a Generation, or a mapping of its fields. None: greedy, 200 tokens at most.
        sampling: The same for the several samples of a question, which leak@k reads. None: 8 at temperature 1.
        original: The model that agreement compares with, an object or a name.
        embedder: The sentence encoder that similarity uses, a folder or hub id.
        judge: The judge of `metrics=["judgement"]`: a judge object, or its settings (see `eval.judge`).
        extras: Groups of further metrics, such as "leak" or "fluency" (see `eval.extras`).
        batch_tokens: Tokens of a padded batch at most. None: chosen for the device.
        seed: The seed of sampled generations, if `generation` and `sampling` do not name one.

    Returns:
        The values by metric name, with statistics by example and generated texts.

    Raises:
        ConfigError: If an argument is wrong. DataError: If an example is wrong, or longer than the model's context.
    """
    data = (forget, retain, holdout)
    if benchmark is None:
        task = in_memory_benchmark(
            forget=forget, retain=retain, holdout=holdout, has_retain_results=retain_results is not None
        )
    elif any(side is not None for side in data):
        raise ConfigError("evaluate: give benchmark= or data (forget=, retain=, holdout=), not both")
    else:
        task = load_benchmark(benchmark) if isinstance(benchmark, str) else benchmark
        if not isinstance(task, Benchmark):
            raise ConfigError(f"benchmark: expected a benchmark or its name, got {kind_of(task)}")
    with keys_named(ARGUMENTS):
        if extras:
            samples = resolve_generation(sampling, seed, default=SAMPLING, where="sampling").samples
            _check_extras(extras)
            task = with_extras(task, extras, samples=samples, refusals=REFUSALS)
        return evaluate_task(
            model,
            tokenizer,
            task,
            metrics=metrics,
            retain_results=retain_results,
            template=template,
            generation=generation,
            sampling=sampling,
            original=original,
            embedder=embedder,
            judge=None if judge is None else generation_judge(judge),
            batch_tokens=batch_tokens,
            seed=seed,
        )


def _check_extras(extras: Sequence[str]) -> None:
    """Raise ConfigError for a group of metrics that does not exist."""
    for name in as_list(extras, "extras"):
        if name not in EXTRAS:
            raise ConfigError(f"extras: no group of metrics named {name!r}{nearest(name, EXTRAS)}")
