"""What a reference says: the model before unlearning, or a teacher, asked once for every row the run will use.

Log-probabilities need one number per answer token. Distributions need the hidden states that the LM head reads, and a
frozen copy of the head: the logits come out the same, without a second model and without its forward at each step. Or,
as an approximation, the largest logits of each token.

What was kept can be written to a folder; whoever reads it there maps the file and copies the rows of a step alone.
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
from transformers import AutoConfig

from expunge.core.errors import JobError
from expunge.data.batch import Batch, collate
from expunge.data.template import Encoded
from expunge.evaluation.observation import capabilities
from expunge.methods.api import Quantity, ScoredPositions, SideOutputs
from expunge.models.chunks import ChunkedLogits
from expunge.models.packed import FrozenLmHead, PackedOutput, bare, wide
from expunge.models.token_ids import padding_id
from expunge.training.forward import ForwardOutput, ForwardSpec, forward

Kept = Mapping[str, Tensor]
FILE = "reference.safetensors"


def keep(
    model: Any,
    rows: Sequence[Encoded],
    wanted: Sequence[int],
    what: ForwardSpec,
    *,
    pad_id: int,
    topk: int | None = None,
    head: FrozenLmHead | None = None,
    batch: int = 16,
) -> Kept:
    """Ask the model for the wanted rows; the answer on the CPU, ragged: row i has the tokens offsets[i]:offsets[i + 1].

    offsets (R + 1): a row that is not wanted has no tokens. Then one of: logps (N,); hidden (N, D); or, for
    distributions with `topk`, logits and ids (N, k), rest (N,) and vocabulary (): the largest logits, and the logit
    that gives each other token an even share of what is left. head: checked against the model's own logits.
    """
    order = sorted(set(wanted), key=lambda i: (len(rows[i].ids), i))
    n_tokens = torch.zeros(len(rows), dtype=torch.long)
    for i in order:
        n_tokens[i] = max(len(rows[i].ids) - max(rows[i].n_prompt, 1), 0)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), n_tokens.cumsum(0)])
    kept = {"offsets": offsets}
    device = next(model.parameters()).device
    was_training = model.training
    capabilities(model)  # observed before the first pass, which reads it
    pad_id = padding_id(model, pad_id)
    model.eval()
    with torch.no_grad():
        for start in range(0, len(order), batch):
            numbers = order[start : start + batch]
            made = collate([rows[i] for i in numbers], pad_id=pad_id, positions=what.positions.value).to(device)
            said = forward(model, made, what, head=head if start else None)
            if head is not None and start == 0:
                head.check(PackedOutput(said.whole(), said.hidden_ND))
            at = torch.cat([torch.arange(int(offsets[i]), int(offsets[i + 1])) for i in numbers])
            for name, values in _quantity(said, made, what, topk).items():
                if name not in kept:
                    kept[name] = torch.empty((int(offsets[-1]), *values.shape[1:]), dtype=values.dtype)
                kept[name][at] = values.cpu()
            if topk is not None and what.serve is Quantity.LOGITS:
                kept["vocabulary"] = torch.tensor(said.whole().shape[-1])
    model.train(was_training)
    return kept


def _quantity(said: ForwardOutput, batch: Batch, what: ForwardSpec, topk: int | None) -> dict[str, Tensor]:
    if what.serve is Quantity.LOGPS:
        return {"logps": said.logps(batch.token_N)}
    if what.serve is Quantity.LOGITS and topk is not None:
        return _largest(wide(said.whole()), topk)
    return {"hidden": said.hidden_ND}


def _largest(logits_NV: Tensor, k: int) -> dict[str, Tensor]:
    """The k largest logits, and the logit of every other token if these shared their probability evenly."""
    others = max(logits_NV.shape[-1] - k, 0)
    top = logits_NV.topk(min(k, logits_NV.shape[-1]), dim=-1)
    left_NV = logits_NV.scatter(-1, top.indices, -math.inf)
    rest_N = left_NV.logsumexp(-1) - math.log(others) if others else left_NV.amax(-1)
    return {"logits": top.values, "ids": top.indices.int(), "rest": rest_N}


def mass_outside(kept: Kept) -> Tensor | None:
    """The probability that lies outside the kept logits, for each token, shape (N,); None where all is kept."""
    if "rest" not in kept:
        return None
    others = int(kept["vocabulary"]) - kept["ids"].shape[1]
    if others == 0:
        return torch.zeros_like(kept["rest"])
    left_N = kept["rest"] + math.log(others)
    return torch.sigmoid(left_N - kept["logits"].logsumexp(-1))


class StoredReference:
    """Reference quantities of rows of one side, by row number, from what was kept."""

    def __init__(self, kept: Kept, what: ForwardSpec, head: FrozenLmHead | None = None) -> None:
        self._kept, self._what, self._head = kept, what, head
        self._offsets: list[int] = kept["offsets"].tolist()

    def side(self, numbers: Sequence[int], batch: Batch) -> SideOutputs:
        """The reference's view of a batch made of these rows, in this order."""
        at = [slice(self._offsets[i], self._offsets[i + 1]) for i in numbers]
        if sum(s.stop - s.start for s in at) != len(batch.row_N):
            raise JobError("the stored reference has other tokens for these rows than the batch; remove its folder")

        def of(name: str) -> Tensor:
            return torch.cat([self._kept[name][s] for s in at]).to(batch.row_N.device)

        if self._what.serve is Quantity.LOGPS:
            kept = of("logps")
            return ForwardOutput(None, kept.new_zeros(0)).side(batch, self._what, logps_N=kept)
        if "rest" in self._kept:
            rest_N = of("rest")
            logits_NV = rest_N[:, None].repeat(1, int(self._kept["vocabulary"]))
            logits_NV.scatter_(-1, of("ids").long(), of("logits"))
            return ForwardOutput(logits_NV, rest_N.new_zeros(0)).side(batch, self._what)
        kept = of("hidden")
        with torch.no_grad():
            logits = None if self._head is None else ChunkedLogits(self._head, kept)
            return ForwardOutput(logits, kept).side(batch, self._what)


class ResidentReference:
    """A frozen second model, run at each step: only for numbers that depend on the shape of the batch."""

    def __init__(self, model: Any, what: ForwardSpec) -> None:
        self._model = copy.deepcopy(model).eval().requires_grad_(False)
        self._what = what

    def side(self, numbers: Sequence[int], batch: Batch) -> SideOutputs:
        """The reference's view of a batch, computed anew."""
        del numbers
        with torch.no_grad():
            return forward(self._model, batch, self._what).side(batch, self._what)


Reference = StoredReference | ResidentReference


def reference(
    model: Any,
    rows: Sequence[Encoded],
    wanted: Sequence[int],
    what: ForwardSpec,
    *,
    pad_id: int,
    topk: int | None = None,
) -> Reference:
    """The cheapest reference that gives the asked quantity: exactly, or with `topk` about so."""
    if what.positions is ScoredPositions.ALL:
        return ResidentReference(model, what)
    head = head_for(model, what, topk)
    return StoredReference(keep(model, rows, wanted, what, pad_id=pad_id, topk=topk, head=head), what, head)


def head_for(model: Any, what: ForwardSpec, topk: int | None) -> FrozenLmHead | None:
    """A frozen copy of the model's head where a reference's distributions are made from hidden states."""
    return FrozenLmHead(model) if what.serve is Quantity.LOGITS and topk is None else None


def save_reference(folder: Path, kept: Kept, *, head_of: Any = None) -> None:
    """Write what was kept; with the head of the model it came from, if the reader will train another model."""
    tensors = dict(kept)
    if head_of is not None:
        head = bare(head_of).get_output_embeddings()
        tensors["head.weight"] = head.weight.detach().cpu()
        if getattr(head, "bias", None) is not None:
            tensors["head.bias"] = head.bias.detach().cpu()
        bare(head_of).config.save_pretrained(folder)
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / FILE)


def load_reference(folder: Path, what: ForwardSpec, model: Any) -> StoredReference:
    """A reference from a folder, its file mapped. Without a head of its own it takes that of the untrained `model`."""
    with safe_open(folder / FILE, framework="pt") as f:
        kept = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118  # not a mapping
    topk = kept["ids"].shape[1] if "ids" in kept else None
    if "head.weight" in kept:
        head = {k: t.to(next(model.parameters()).device) for k, t in kept.items() if k.startswith("head.")}
        model = _Head(head["head.weight"], head.get("head.bias"), AutoConfig.from_pretrained(folder))
    return StoredReference(kept, what, head_for(model, what, topk))


@dataclass(frozen=True)
class _Head:
    """As much of a model as its frozen head is made from."""

    weight: Tensor
    bias: Tensor | None
    config: Any

    def get_output_embeddings(self) -> _Head:
        return self
