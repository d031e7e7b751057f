"""Divide the micro-batches of a run over processes, so that the number of processes changes only the rounding.

A step is the mean over its micro-batches, each term multiplied by its share (`methods.reduction`). Process r of n
computes every n-th of a step's micro-batches from the r-th on. If the division has a remainder, the other processes
compute a micro-batch again at weight 0, because all must take part in every exchange.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset

from expunge.core.distributed import Rank, here
from expunge.core.errors import JobError
from expunge.core.on_use import transformers
from expunge.methods.objective import Objective
from expunge.training.config import TrainArgs
from expunge.training.phases import HIDDEN_STATES, TrainingSample


@dataclass(frozen=True)
class MicroBatch:
    """A micro-batch of one process.

    weight: the factor of its loss, so that the mean over all computed micro-batches is the mean over the step's
    micro-batches; 0 for one that only fills a gap. step: the samples of the whole step, of all processes; empty if all
    micro-batches have equal weight. n_micro: the number of micro-batches of the step.
    """

    samples: Sequence[TrainingSample]
    weight: float = 1.0
    step: Sequence[TrainingSample] = ()
    n_micro: int = 1


class RankBatches(Dataset[MicroBatch]):
    """The micro-batches of one process, in order."""

    def __init__(self, micros: Sequence[MicroBatch]) -> None:
        self._micros = micros

    def __len__(self) -> int:
        return len(self._micros)

    def __getitem__(self, index: int) -> MicroBatch:
        return self._micros[index]


def per_process(args: TrainArgs, rank: Rank) -> int:
    """Return the number of micro-batches of a whole step that one process computes."""
    return -(-args.gradient_accumulation_steps // rank.world)


def rank_batches(samples: Sequence[TrainingSample], args: TrainArgs, rank: Rank) -> RankBatches:
    """Return a process's micro-batches of these samples; the number is the same in every process."""
    size, of_step, n = args.per_device_train_batch_size, args.gradient_accumulation_steps, rank.world
    micros = [samples[i : i + size] for i in range(0, len(samples), size)]
    mine: list[MicroBatch] = []
    for first in range(0, len(micros), of_step):
        step = micros[first : first + of_step]
        whole = samples[first * size : (first + of_step) * size] if args.accumulation == "whole_step" else ()
        rounds = -(-len(step) // n)
        for at in range(rank.number, rounds * n, n):
            weight = rounds * n / len(step) if at < len(step) else 0.0
            mine.append(MicroBatch(step[at % len(step)], weight, whole, len(step)))
    return RankBatches(mine)


def check_several(objective: Objective, step: bool, rank: Rank, *, sharded: bool) -> None:
    """Raise JobError for a method or step that needs one process, or a whole model in each."""
    if rank.alone:
        return
    name = objective.spec.name
    if step:
        raise JobError(
            "grad_transform runs in one process, because processes do not exchange its gradients; start the run "
            "without launcher"
        )
    if hasattr(objective.method, "total"):
        raise JobError(
            f"{name} learns its weights from one micro-batch after another, which takes one process; start the run "
            "without launcher"
        )
    needs = objective.needs
    if needs.rollout is not None:
        raise JobError(f"{name} samples texts during training, which takes one process; start the run without launcher")
    if sharded and {needs.forget, needs.alternate, needs.retain} & {*HIDDEN_STATES}:
        raise JobError(f"{name} reads hidden states of layers, which a model in shards cannot give; use ddp")


def gather_whole(accelerator: Any, wrapped: Any, model: Any) -> None:
    """Gather the whole weights of a model in shards on the CPU of the first process; other processes cannot use it.

    wrapped: the accelerator's wrapper of the model.
    """
    state = accelerator.get_state_dict(wrapped)
    transformers.integrations.deepspeed.unset_hf_deepspeed_config()  # else transformers divides later models as well
    if not here().first:
        return
    whole: dict[int, nn.Parameter] = {}  # tied weights stay one
    for name, p in list(model.named_parameters(remove_duplicate=False)):
        owner, _, last = name.rpartition(".")
        if id(p) not in whole:
            whole[id(p)] = nn.Parameter(state[name].float(), requires_grad=p.requires_grad)
        setattr(model.get_submodule(owner), last, whole[id(p)])


class _WholeForward(nn.Module):
    """A model whose forward is a loss, so that its wrapper sees one forward however often the loss runs the model.

    DistributedDataParallel expects one forward per backward. A loss may run the model twice, or a part of it, and reads
    the LM head's weights outside the model.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, loss: Callable[[Any], Tensor]) -> Tensor:
        """Return the loss of the model."""
        return loss(self.model)


def in_one_forward(model: Any) -> DistributedDataParallel:
    """Wrap a model so that its gradients are averaged over processes; call it with a function from model to loss."""
    return DistributedDataParallel(_WholeForward(model), find_unused_parameters=True)
