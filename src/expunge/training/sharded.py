"""Models in shards over the processes of a launch: where they are trained, and by whom they are cut."""

from __future__ import annotations

from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from expunge.core import ranks


def trained_on(model: Any) -> str:
    """The kind of device that a model is trained on: where it lies, but for one that is yet to be cut in shards."""
    if ranks.sharded():
        return "cuda" if ranks.on_gpus() else "cpu"
    kind: str = next(model.parameters()).device.type
    return kind


def shard_anywhere(accelerator: Any) -> bool:
    """Let accelerate cut models by FSDP on CPUs as it does on GPUs.

    It reads what the launcher says of FSDP only where it has found accelerators; torch's own FSDP2 needs none. What it
    has settled on it forgets when it is asked for its state again, unless the state under that says so too.
    """
    state = accelerator.state
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.fsdp_plugin = FullyShardedDataParallelPlugin()
    state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    return True
