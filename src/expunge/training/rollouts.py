"""Rollouts: texts that the model in training samples for questions, with their rewards.

Evaluation's decoder samples them. A token depends on the weights, the run's seed, the step, the row and the sample
alone. So a run that resumes from a checkpoint samples the same texts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from expunge.core.errors import DataError, JobError
from expunge.data.encoder import Encoded, Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.evaluation.config import Generation
from expunge.evaluation.generation import end_ids, generated_text, new_tokens
from expunge.evaluation.loglikelihood import context_length
from expunge.evaluation.prompts import Prompt, make_prompts
from expunge.methods.api import Rollouts
from expunge.training.rewards import Rollout, find_reward


@dataclass(frozen=True)
class RolloutSource:
    """The sets of the forget rows, in the order of the rows, and the template. retain: the same of the retain rows."""

    sets: tuple[ExampleSet, ...]
    encoder: Encoder
    retain: tuple[ExampleSet, ...] = ()


def rollout_source(sets: Sequence[ExampleSet], encoder: Encoder, retain: Sequence[ExampleSet] = ()) -> RolloutSource:
    """Return the source of the rollouts of some sets. Raises DataError for a set without questions."""
    for one in (*sets, *retain):
        if one.n_tokens is not None or one.long == "pieces" or any(not row.question.strip() for row in one.rows):
            raise DataError(f"{one.name}: the method answers questions, and these rows have none")
    return RolloutSource(tuple(sets), encoder, tuple(retain))


@dataclass(frozen=True)
class RolloutBatch:
    """The rollouts of some rows, those of a row next to each other, and their rewards."""

    rows: tuple[Encoded, ...]
    texts: tuple[Rollout, ...]
    rewards: tuple[float, ...]


class RolloutSampler:
    """Sample the rollouts of a step. Raises DataError if a question fills the model's context."""

    def __init__(self, model: Any, plan: Rollouts, source: RolloutSource, seed: int) -> None:
        self._plan, self._encoder, self._seed = plan, source.encoder, seed
        self._how = Generation(max_new_tokens=plan.max_new_tokens, temperature=plan.temperature, samples=plan.n)
        self._examples: list[Example] = []
        self._prompts: list[list[Prompt]] = []
        self._n_forget = sum(len(one.rows) for one in source.sets)
        for one in (*source.sets, *source.retain):
            prompts = make_prompts(one, source.encoder, self._how, context_length(model), None)
            for k, row in enumerate(one.rows):
                number = len(self._examples)
                of_row = prompts[k * plan.n : (k + 1) * plan.n]
                self._prompts.append([dataclasses.replace(prompt, row_id=number) for prompt in of_row])
                self._examples.append(row)

    def __call__(self, model: Any, numbers: Sequence[int], step: int, retain: Sequence[int] = ()) -> RolloutBatch:
        """Return the rollouts of forget rows, then of retain rows, at a step of the run, by the present weights.

        Raises JobError if the model's logits are not numbers.
        """
        every = (*numbers, *(self._n_forget + number for number in retain))
        prompts = [prompt for number in every for prompt in self._prompts[number]]
        seed = int(np.random.SeedSequence([self._seed, step]).generate_state(1)[0])
        how = dataclasses.replace(self._how, seed=seed)
        training = model.training
        ended = new_tokens(model, prompts, self._encoder, how)
        model.train(training)
        torch.clear_autocast_cache()  # its casts of the weights have no gradient
        rows, texts, ends = [], [], end_ids(model, self._encoder)
        for prompt, new in zip(prompts, ended, strict=True):
            if new.ids is None:
                raise JobError(f"step {step + 1}: the model's logits are not numbers, so no text can be sampled")
            example = self._examples[prompt.row_id]
            rows.append(Encoded((*prompt.ids, *new.ids), len(prompt.ids)))
            text = generated_text(new, self._encoder, how, ends)
            side = "forget" if prompt.row_id < self._n_forget else "retain"
            texts.append(
                Rollout(
                    example.question,
                    example.answer,
                    text,
                    len(new.ids),
                    new.stopped,
                    trace=example.trace,
                    side=side,
                    forbidden=self._plan.forbidden,
                )
            )
        return RolloutBatch(tuple(rows), tuple(texts), self._rewards(texts))

    def _rewards(self, texts: Sequence[Rollout]) -> tuple[float, ...]:
        """Return the weighted sum of the rewards of each text. Raises JobError for a wrong result of a reward."""
        total = [0.0] * len(texts)
        for name, weight in self._plan.rewards.items():
            values = [float(value) for value in find_reward(name).compute(texts)]
            if len(values) != len(texts) or not all(math.isfinite(value) for value in values):
                raise JobError(
                    f"reward {name}: expected {len(texts)} finite numbers, one for each text, got {values!r:.80}"
                )
            total = [before + weight * value for before, value in zip(total, values, strict=True)]
        return tuple(total)
