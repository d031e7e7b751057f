"""Reference outputs: of the model before unlearning, or of a teacher, computed once for every row of the run.

Log-probabilities need one number per answer token. Distributions need the hidden states that the LM head reads, and a
frozen copy of the head. The logits are the same, without a second model and its forward at each step. An approximation
stores the largest logits of each token.

The outputs can be written to a folder. A run that reads the folder maps the file and copies only the rows of a step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from expunge.core.errors import JobError
from expunge.core.on_use import transformers
from expunge.data.batch import Batch, collate
from expunge.data.encoder import Encoded
from expunge.evaluation.observation import capabilities
from expunge.methods.api import Quantity, ScoredPositions, SideOutputs
from expunge.models.capabilities import kept_modes, padding_id
from expunge.models.chunks import ChunkedLogits
from expunge.models.packed import FrozenLmHead, PackedOutput, bare, wide
from expunge.training.forward import ForwardOutput, forward
from expunge.training.phases import ForwardSpec

ReferenceTensors = Mapping[str, Tensor]
FILE = "reference.safetensors"


def keep(
    model: Any,
    rows: Sequence[Encoded],
    numbers: Sequence[int],
    spec: ForwardSpec,
    *,
    pad_id: int,
    topk: int | None = None,
    head: FrozenLmHead | None = None,
    batch: int = 16,
) -> ReferenceTensors:
    """Compute a model's outputs on some rows, on the CPU, ragged: row i has the tokens offsets[i]:offsets[i + 1].

    Args:
        model: The model before unlearning, or a teacher.
        rows: All encoded rows of a side.
        numbers: The row numbers to compute; other rows have no tokens.
        spec: The quantity and the positions.
        pad_id: The token id of padded positions.
        topk: Store the largest k logits of a distribution. None: store hidden states.
        head: A copy of the LM head, compared with the model's own logits.
        batch: Rows per forward.

    Returns:
        offsets (R + 1), and one of: logps (N,); hidden (N, D), with the widths of several modules; or, for
        distributions with `topk`, logits and ids (N, k), rest (N,) and vocabulary (). `rest` is the logit that spreads
        the remaining probability evenly over the other tokens.
    """
    order = sorted(set(numbers), key=lambda i: (len(rows[i].ids), i))
    n_tokens = torch.zeros(len(rows), dtype=torch.long)
    for i in order:
        n_tokens[i] = max(len(rows[i].ids) - max(rows[i].n_prompt, 1), 0)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), n_tokens.cumsum(0)])
    tensors = {"offsets": offsets}
    device = next(model.parameters()).device
    capabilities(model)  # observed before the first pass, which reads it
    pad_id = padding_id(model, pad_id)
    with kept_modes(model), torch.no_grad():
        model.eval()
        for start in range(0, len(order), batch):
            part = order[start : start + batch]
            collated = collate([rows[i] for i in part], pad_id=pad_id, positions=spec.positions.value).to(device)
            output = forward(model, collated, spec, head=head if start else None)
            if head is not None and start == 0:
                head.check(PackedOutput(output.whole(), output.hidden_ND))
            at = torch.cat([torch.arange(int(offsets[i]), int(offsets[i + 1])) for i in part])
            for name, values in _quantity(output, collated, spec, topk).items():
                if name not in tensors:
                    tensors[name] = torch.empty((int(offsets[-1]), *values.shape[1:]), dtype=values.dtype)
                tensors[name][at] = values.cpu()
            if topk is not None and spec.serve is Quantity.LOGITS:
                tensors["vocabulary"] = torch.tensor(output.whole().shape[-1])
            if output.widths:
                tensors["widths"] = torch.tensor(output.widths)
    return tensors


def _quantity(output: ForwardOutput, batch: Batch, spec: ForwardSpec, topk: int | None) -> dict[str, Tensor]:
    if spec.serve is Quantity.LOGPS:
        return {"logps": output.logps(batch.token_N)}
    if spec.serve is Quantity.LOGITS and topk is not None:
        return _largest(wide(output.whole()), topk)
    out = {"hidden": output.hidden_ND}
    if spec.serve is Quantity.HIDDEN_LOGPS:
        out["logps"] = output.logps(batch.token_N)
    return out


def _largest(logits_NV: Tensor, k: int) -> dict[str, Tensor]:
    """Return the k largest logits, and the logit of each other token if they shared their probability evenly."""
    others = max(logits_NV.shape[-1] - k, 0)
    top = logits_NV.topk(min(k, logits_NV.shape[-1]), dim=-1)
    left_NV = logits_NV.scatter(-1, top.indices, -math.inf)
    rest_N = left_NV.logsumexp(-1) - math.log(others) if others else left_NV.amax(-1)
    return {"logits": top.values, "ids": top.indices.int(), "rest": rest_N}


def mass_outside(tensors: ReferenceTensors) -> Tensor | None:
    """Return the probability outside the stored logits, for each token, shape (N,); None for exact references."""
    if "rest" not in tensors:
        return None
    others = int(tensors["vocabulary"]) - tensors["ids"].shape[1]
    if others == 0:
        return torch.zeros_like(tensors["rest"])
    left_N = tensors["rest"] + math.log(others)
    return torch.sigmoid(left_N - tensors["logits"].logsumexp(-1))


class StoredReference:
    """Reference quantities of rows of one side, by row number, from the outputs of `keep`."""

    def __init__(self, tensors: ReferenceTensors, spec: ForwardSpec, head: FrozenLmHead | None = None) -> None:
        self._tensors, self._spec, self._head = tensors, spec, head
        self._offsets: list[int] = tensors["offsets"].tolist()
        self._widths = tuple(tensors["widths"].tolist()) if "widths" in tensors else ()

    def side(self, numbers: Sequence[int], batch: Batch) -> SideOutputs:
        """Return the reference's outputs on a batch of these rows, in this order."""
        at = [slice(self._offsets[i], self._offsets[i + 1]) for i in numbers]
        if sum(s.stop - s.start for s in at) != len(batch.row_N):
            raise JobError("the stored reference has other tokens for these rows than the batch; remove its folder")

        def of(name: str) -> Tensor:
            return torch.cat([self._tensors[name][s] for s in at]).to(batch.row_N.device)

        if self._spec.serve is Quantity.LOGPS:
            logps_N = of("logps")
            return ForwardOutput(None, logps_N.new_zeros(0)).side(batch, self._spec, logps_N=logps_N)
        if "rest" in self._tensors:
            rest_N = of("rest")
            logits_NV = rest_N[:, None].repeat(1, int(self._tensors["vocabulary"]))
            logits_NV.scatter_(-1, of("ids").long(), of("logits"))
            return ForwardOutput(logits_NV, rest_N.new_zeros(0)).side(batch, self._spec)
        hidden_ND = of("hidden")
        with torch.no_grad():
            logits = None if self._head is None else ChunkedLogits(self._head, hidden_ND)
            stored_N = of("logps") if "logps" in self._tensors else None
            return ForwardOutput(logits, hidden_ND, self._widths).side(batch, self._spec, logps_N=stored_N)


class ResidentReference:
    """A frozen second model, run at each step: for texts of the step, and numbers that depend on the batch's shape."""

    def __init__(self, model: Any, spec: ForwardSpec) -> None:
        self._model = copy.deepcopy(model).eval().requires_grad_(False)
        self._spec = spec

    def side(self, numbers: Sequence[int], batch: Batch) -> SideOutputs:
        """Compute the reference's outputs on a batch."""
        del numbers
        with torch.no_grad():
            return forward(self._model, batch, self._spec).side(batch, self._spec)


Reference = StoredReference | ResidentReference


def reference(
    model: Any,
    rows: Sequence[Encoded],
    numbers: Sequence[int],
    spec: ForwardSpec,
    *,
    pad_id: int,
    topk: int | None = None,
) -> Reference:
    """Return the cheapest reference for a quantity: exact, or with `topk` approximate."""
    if spec.positions is ScoredPositions.ALL:
        return ResidentReference(model, spec)
    head = head_for(model, spec, topk)
    return StoredReference(keep(model, rows, numbers, spec, pad_id=pad_id, topk=topk, head=head), spec, head)


def head_for(model: Any, spec: ForwardSpec, topk: int | None) -> FrozenLmHead | None:
    """Return a frozen copy of the model's head if the reference computes distributions from hidden states."""
    return FrozenLmHead(model) if spec.serve is Quantity.LOGITS and topk is None else None


def save_reference(folder: Path, outputs: ReferenceTensors, *, head_of: Any = None) -> None:
    """Write the outputs of `keep`; with the head of their model, if the reader will train another model."""
    tensors = dict(outputs)
    if head_of is not None:
        head = bare(head_of).get_output_embeddings()
        tensors["head.weight"] = head.weight.detach().cpu()
        if getattr(head, "bias", None) is not None:
            tensors["head.bias"] = head.bias.detach().cpu()
        bare(head_of).config.save_pretrained(folder)
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / FILE)


def load_reference(folder: Path, spec: ForwardSpec, model: Any) -> StoredReference:
    """Return a reference from a folder, its file mapped; without a stored head it copies the untrained `model`'s."""
    with safe_open(folder / FILE, framework="pt") as f:
        tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118  # not a mapping
    topk = tensors["ids"].shape[1] if "ids" in tensors else None
    if "head.weight" in tensors:
        head = {k: t.to(next(model.parameters()).device) for k, t in tensors.items() if k.startswith("head.")}
        model = _Head(head["head.weight"], head.get("head.bias"), transformers.AutoConfig.from_pretrained(folder))
    return StoredReference(tensors, spec, head_for(model, spec, topk))


@dataclass(frozen=True)
class _Head:
    """The parts of a model that its frozen head is copied from."""

    weight: Tensor
    bias: Tensor | None
    config: Any

    def get_output_embeddings(self) -> _Head:
        """Return the head, as a transformers model does."""
        return self
