"""Models in shards over the processes of a launch: where they are trained, who cuts them, and what each keeps."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, Shard

from expunge.core import distributed


def trained_on(model: Any) -> torch.device:
    """The device that a model is trained on: where it lies, but for one that is yet to be cut in shards."""
    if distributed.sharded():
        return torch.device("cuda" if distributed.on_gpus() else "cpu")
    device: torch.device = next(model.parameters()).device
    return device


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


def cut_before(accelerator: Any, model: Any) -> None:
    """Let accelerate take a model as it is that an earlier phase has cut: its layers' classes have other names now."""
    cut = [m for m in model.modules() if isinstance(m, FSDPModule)]
    if cut:
        names = {type(m).__name__ for m in cut if m is not model}
        accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = sorted(names)


def own_shards(state: Any) -> Any:
    """An optimiser's state with this process's part of each tensor that lies in shards, and where it belongs."""
    if isinstance(state, dict):
        return {key: own_shards(value) for key, value in state.items()}
    if not isinstance(state, DTensor):
        return state
    dims = [p.dim if isinstance(p, Shard) else None for p in state.placements]
    return {"shard": state.to_local(), "shape": list(state.shape), "stride": list(state.stride()), "dims": dims}


def in_shards(state: dict[str, Any], optimizer: Any) -> dict[str, Any]:
    """What `own_shards` was given, on the devices of this optimiser's parameters."""
    params = [p for group in optimizer.param_groups for p in group["params"]]

    def put(value: Any, like: Any) -> Any:
        if not isinstance(value, dict) or "shard" not in value:
            return value
        cut = [Replicate() if dim is None else Shard(dim) for dim in value["dims"]]
        held = value["shard"].to(like.to_local().device)
        shape = torch.Size(value["shape"])
        return DTensor.from_local(held, like.device_mesh, cut, shape=shape, stride=tuple(value["stride"]))

    made = {i: {key: put(value, params[i]) for key, value in of.items()} for i, of in state["state"].items()}
    return {**state, "state": made}
