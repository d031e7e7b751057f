"""Models in shards over the processes of a launch: their device, their division, and the state of each process."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, Shard


def shard_anywhere(accelerator: Any) -> bool:
    """Let accelerate divide models by FSDP on CPUs as it does on GPUs.

    accelerate reads the launcher's FSDP settings only with accelerators; torch's FSDP2 needs none. accelerate resets
    its state when it is created again, so PartialState receives the same type.
    """
    state = accelerator.state
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.fsdp_plugin = FullyShardedDataParallelPlugin()
    state.distributed_type = PartialState().distributed_type = DistributedType.FSDP
    return True


def cut_before(accelerator: Any, model: Any) -> None:
    """Let accelerate accept a model that an earlier phase divided: the classes of its layers have other names now."""
    cut = [m for m in model.modules() if isinstance(m, FSDPModule)]
    if cut:
        names = {type(m).__name__ for m in cut if m is not model}
        accelerator.state.fsdp_plugin.transformer_cls_names_to_wrap = sorted(names)


def own_shards(state: Any) -> Any:
    """Return an optimiser's state with this process's part of each tensor in shards, and the position of the part."""
    if isinstance(state, dict):
        return {key: own_shards(value) for key, value in state.items()}
    if not isinstance(state, DTensor):
        return state
    dims = [p.dim if isinstance(p, Shard) else None for p in state.placements]
    return {"shard": state.to_local(), "shape": list(state.shape), "stride": list(state.stride()), "dims": dims}


def in_shards(state: dict[str, Any], optimizer: Any) -> dict[str, Any]:
    """Invert `own_shards`, on the devices of this optimiser's parameters."""
    params = [p for group in optimizer.param_groups for p in group["params"]]

    def restore(value: Any, like: Any) -> Any:
        if not isinstance(value, dict) or "shard" not in value:
            return value
        cut = [Replicate() if dim is None else Shard(dim) for dim in value["dims"]]
        part = value["shard"].to(like.to_local().device)
        shape = torch.Size(value["shape"])
        return DTensor.from_local(part, like.device_mesh, cut, shape=shape, stride=tuple(value["stride"]))

    tensors = {i: {key: restore(value, params[i]) for key, value in of.items()} for i, of in state["state"].items()}
    return {**state, "state": tensors}
