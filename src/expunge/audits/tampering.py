"""The attacks of the tamper audit on one model: each try trains or changes a copy, and scores the hidden rows.

Cost: 6 x parameters x tokens for training and 2 x parameters x tokens for a forward pass. For adapters and soft
prompts, whose frozen weights need no gradients, this is an upper bound.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from expunge.audits.api import RelearnSpec
from expunge.audits.changes import attacked_copy, relearn_args, relearn_rows
from expunge.core.errors import DataError
from expunge.core.records import Floats
from expunge.data.encoder import Encoded, Encoder
from expunge.data.examples import ExampleSet
from expunge.evaluation.observation import capabilities
from expunge.interpretability.hidden import first, hidden_states
from expunge.interpretability.inputs import AnalysisInputs, analysis_inputs, answer_logps, row_means
from expunge.interpretability.model_layout import model_layout
from expunge.metrics.api import MetricResult
from expunge.training.config import TrainArgs
from expunge.training.encoding import encode_sets
from expunge.training.lora import LoraArgs, with_lora

TRAINING, FORWARD = 6.0, 2.0  # floating-point operations per parameter and token


@dataclass(frozen=True)
class TrySettings:
    """The settings of an attacker's tries. rates: one run each; steps: the steps after which a run is scored."""

    rates: tuple[float, ...]
    steps: tuple[int, ...]
    batch_size: int
    seed: int
    prompt_tokens: int
    lora_rank: int


def probabilities(model: Any, inputs: AnalysisInputs) -> Floats:
    """Return the probability of each row's answer, exp of the mean log-probability of its tokens; shape (R,)."""
    values: Floats = np.exp(row_means(answer_logps(model, inputs), inputs))
    return values


def scored(inputs: AnalysisInputs, values_R: Floats, rate: float, steps: int, flops: float) -> MetricResult:
    """Return the result of one try: the rows' probabilities, and its rate, steps and cost in `extra`."""
    rows = {i: {"score": float(v)} for i, v in zip(inputs.row_ids, values_R, strict=True)}
    return MetricResult(
        float(values_R.mean()), per_row=rows, extra={"rate": rate, "steps": float(steps), "flops": flops}
    )


def parameter_count(model: Any) -> int:
    """Return the number of a model's parameters; tied ones count once."""
    return sum(p.numel() for p in model.parameters())


def training_results(
    model: Any, known: ExampleSet, hidden: ExampleSet, encoder: Encoder, settings: TrySettings, attack: str
) -> dict[str, MetricResult]:
    """Train a copy of the model once per rate, by one of the attacks, and score the hidden rows after the steps.

    attack: "soft_prompt" trains input embeddings before each row, "lora" adapters, all others every weight.
    """
    inputs, rows = analysis_inputs(hidden, encoder), encode_sets([known], encoder)
    n_prefix = settings.prompt_tokens if attack == "soft_prompt" else 0
    pad_id = int(encoder.tokenizer.pad_token_id)
    n_parameters = parameter_count(model)
    results: dict[str, MetricResult] = {}
    for rate in settings.rates:
        other = attacked_copy(model)
        capabilities(other)  # observed before hooks change the model's numbers
        here = inputs
        with contextlib.ExitStack() as hooks:
            if attack == "soft_prompt":
                hooks.enter_context(soft_prompt(other, n_prefix, settings.seed))
                here = dataclasses.replace(inputs, rows=tuple(prefixed(inputs.rows, n_prefix, pad_id)))
            elif attack == "lora":
                other = with_lora(
                    other, LoraArgs(r=settings.lora_rank, lora_alpha=2.0 * settings.lora_rank), settings.seed
                )
            change = RelearnSpec(known.name, (0, *settings.steps), rate, settings.batch_size, settings.seed)
            trained = prefixed(rows, n_prefix, pad_id)
            tokens = settings.batch_size * float(np.mean([len(row.ids) for row in trained]))

            def measure(
                step: int, rate: float = rate, other: Any = other, here: AnalysisInputs = here, tokens: float = tokens
            ) -> None:
                if step or not results:
                    values = probabilities(other, here)
                    cost = TRAINING * n_parameters * tokens * step
                    results[f"{rate:g}@{step}"] = scored(here, values, rate, step, cost)

            relearn_rows(other, trained, change.steps, relearn_args(change, TrainArgs()), pad_id, measure)
    if n_prefix:  # without an attack there is no prefix; a try of 0 steps is the model as it is
        first_name = next(iter(results))
        results[first_name] = scored(inputs, probabilities(model, inputs), settings.rates[0], 0, 0.0)
    return results


def prefixed(rows: Sequence[Encoded], n: int, pad_id: int) -> list[Encoded]:
    """Put n placeholder ids before each row. Their embeddings are those of the soft prompt."""
    return [dataclasses.replace(row, ids=(pad_id,) * n + tuple(row.ids), n_prompt=row.n_prompt + n) for row in rows]


@contextlib.contextmanager
def soft_prompt(model: Any, n: int, seed: int) -> Iterator[nn.Parameter]:
    """Freeze the model and put n trainable embeddings at the first positions of each row, within the block.

    They begin as the embeddings of n random tokens. Rows must have placeholder ids there (`prefixed`).
    """
    table = model.get_input_embeddings()
    chance = torch.Generator().manual_seed(seed)
    ids = torch.randint(table.weight.shape[0], (n,), generator=chance)
    start_KD = table.weight.detach()[ids.to(table.weight.device)].clone()
    model.requires_grad_(False)
    prompt_KD = nn.Parameter(start_KD)
    model.register_parameter("soft_prompt", prompt_KD)

    def replace_first(_module: Any, _args: Any, output: Tensor) -> Tensor:
        k = min(n, output.shape[1])
        now_BKD = model.soft_prompt[:k].to(output.dtype).expand(output.shape[0], k, -1)
        return torch.cat([now_BKD, output[:, k:]], dim=1)

    handle = table.register_forward_hook(replace_first)
    try:
        yield prompt_KD
    finally:
        handle.remove()
        del model.soft_prompt


def ablation_results(
    model: Any, known: ExampleSet, other: ExampleSet, hidden: ExampleSet, encoder: Encoder, tries: int
) -> dict[str, MetricResult]:
    """Remove one direction from every layer's output: mean state of the known forget prompts minus that of others.

    One try per layer that gives the direction, spread evenly over the depth, at the last token of the prompt.
    After Arditi et al. 2024 (arXiv:2406.11717): a difference of means, and directional ablation.
    """
    inputs = analysis_inputs(hidden, encoder)
    depth = len(model_layout(model).blocks)
    layers = sorted({min(depth - 1, round((i + 1) * depth / (tries + 1))) for i in range(tries)})
    means = [_prompt_states(model, rows, encoder, layers) for rows in (known, other)]
    read = sum(len(row.ids) for rows in (known, other) for row in encode_sets([rows], encoder))
    results = {"0@0": scored(inputs, probabilities(model, inputs), 0.0, 0, 0.0)}
    cost = FORWARD * parameter_count(model) * read
    for k, layer in enumerate(layers):
        difference_D = means[0][k] - means[1][k]
        if not float(difference_D.norm()) > 0:
            continue
        with ablated(model, difference_D):
            values = probabilities(model, inputs)
        results[f"{layer}@1"] = scored(inputs, values, float(layer), 1, cost)
    return results


def _prompt_states(model: Any, rows: ExampleSet, encoder: Encoder, layers: Sequence[int]) -> Tensor:
    """Return the mean state of the last prompt token after each of some layers, shape (L, D)."""
    whole = analysis_inputs(rows, encoder)
    inputs = dataclasses.replace(whole, spans=((0, 1),) * len(whole.rows))
    return hidden_states(model, inputs, at="predicts", layers=layers).values_LND.mean(dim=1)


@contextlib.contextmanager
def ablated(model: Any, direction_D: Tensor) -> Iterator[None]:
    """Remove a direction from the embeddings and from every block's output: h - (h . r) r, with r of length 1."""
    r_D = direction_D / direction_D.norm()

    def remove(_module: Any, _args: Any, output: Any) -> Any:
        hidden = first(output)
        r = r_D.to(device=hidden.device, dtype=hidden.dtype)
        rest = hidden - (hidden @ r)[..., None] * r
        return (rest, *output[1:]) if isinstance(output, tuple) else rest

    modules = (model.get_input_embeddings(), *model_layout(model).blocks)
    handles = [module.register_forward_hook(remove) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def attack_results(
    attack: str,
    load: Callable[[str], Any],
    sets: Mapping[str, ExampleSet],
    names: Sequence[str],
    encoder: Encoder,
    settings: TrySettings,
) -> dict[str, MetricResult]:
    """Return the results of all tries of one attack on a model. names: the hidden rows, then the sets to read."""
    hidden, known, *more = (sets[name] for name in names)
    model = load("model")
    if attack != "refusal_ablation":
        return training_results(model, known, hidden, encoder, settings, attack)
    if not more:
        raise DataError("tamper: the refusal ablation needs retain rows")
    return ablation_results(model, known, more[0], hidden, encoder, len(settings.rates))
