"""Hidden states of a model for weight edits that read them (`methods.weight_edits.api.HiddenStatistics`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from expunge.core.errors import ConfigError
from expunge.data.batch import budget_batches, pad, ragged
from expunge.data.encoder import Encoded, Encoder
from expunge.data.examples import ExampleSet
from expunge.evaluation.config import SCORED_TOKENS
from expunge.methods.weight_edits.api import Moments, Positions, Source, State, TargetSearch
from expunge.models.capabilities import capabilities_of
from expunge.models.hidden_states import layer_outputs
from expunge.models.packed import BatchPositions, find_module, forward_at_once, token_logps


class ModelStatistics:
    """The hidden states of one model at rows of the two sides.

    Args:
        model: The base model of an edit. Its weights are the same after each call.
        encoder: The template and the tokenizer.
        forget: Examples to be forgotten. Row i is the question with `refusals[i % len(refusals)]` as its answer.
        retain: Examples to be kept, with their answers.
        refusals: Other answers to the forget questions.
    """

    def __init__(
        self,
        model: Any,
        encoder: Encoder,
        forget: Sequence[ExampleSet],
        retain: Sequence[ExampleSet],
        refusals: Sequence[str],
    ) -> None:
        self.model, self._encoder = model.eval().requires_grad_(False), encoder
        questions = [row.question for one in forget for row in one.rows]
        if not questions or not refusals:
            raise ConfigError("weight edit: needs forget examples and refusals; pass both")
        self._rows = {
            "forget": encoder.pairs(
                "forget with refusals", [(q, refusals[i % len(refusals)]) for i, q in enumerate(questions)]
            ),
            "retain": [row for one in retain for row in encoder.rows(one, [(r, "answer") for r in one.rows])],
        }
        if any(row.n_prompt == 0 for row in self._rows["forget"]):
            raise ConfigError("weight edit: reads the end of each question, and some forget examples have none")
        self._parameters = dict(model.named_parameters(remove_duplicate=False))

    @torch.no_grad()
    def states(self, name: str, of: Source, at: Positions, changed: State) -> Tensor:
        """Return a module's states at all positions, row after row, on the CPU: (N, D)."""
        rows = self._source(of)
        with self._with(changed):
            parts = {places: self._at(batch, at, [name])[0] for batch, places in _batches(rows)}
        sizes = [_counts(row, at) for row in rows]
        by_row: dict[int, Tensor] = {}
        for places, states in parts.items():
            by_row.update(zip(places, states.split([sizes[i] for i in places]), strict=True))
        return torch.cat([by_row[i] for i in range(len(rows))])

    @torch.no_grad()
    def moments(self, names: Sequence[str], of: Source, at: Positions) -> dict[str, Moments]:
        """Return the moments of the states, by module, from one pass over the rows."""
        sums: dict[str, tuple[int, Tensor, Tensor]] = {}
        for batch, _ in _batches(self._source(of)):
            for name, states in zip(names, self._at(batch, at, names), strict=True):
                n, total, square = sums.get(name, (0, torch.zeros(1), torch.zeros(1)))
                sums[name] = (n + len(states), total + states.sum(0), square + states.T @ states)
        return {name: Moments(*parts) for name, parts in sums.items()}

    def targets(self, name: str, search: TargetSearch) -> Tensor:
        """Return the states of `name` that lead to each row's refusal, on the CPU: (B, D)."""
        find_module(self.model, name, key="method_args.block")
        rows = self._rows["forget"]
        budget = SCORED_TOKENS if capabilities_of(self.model).padded else 1
        by_row: dict[int, Tensor] = {}
        for batch, places in _batches(rows, budget):
            by_row.update(zip(places, search_targets(self.model, batch, name, search, self._encoder.eos), strict=True))
        return torch.stack([by_row[i] for i in range(len(rows))])

    def _source(self, of: Source) -> list[Encoded]:
        if isinstance(of, str):
            if not self._rows[of]:
                raise ConfigError(f"weight edit: needs {of} examples; pass some")
            return self._rows[of]
        prompts = [tuple(self._encoder.prompt(question)) for question in of]
        return [Encoded(ids, len(ids)) for ids in prompts]

    def _at(self, rows: Sequence[Encoded], at: Positions, names: Sequence[str]) -> list[Tensor]:
        """Return the states of some modules at a batch's positions, each (N, D), float64, on the CPU."""
        for name in names:
            find_module(self.model, name.partition(":")[0], key="method_args")
        lows = [row.n_prompt - 1 if at == "last" else 0 for row in rows]
        row_N, pos_N = ragged(lows, [_counts(row, at) for row in rows])
        places = _padded(self.model, rows, torch.from_numpy(row_N), torch.from_numpy(pos_N), self._encoder.eos)
        return [h.double().cpu() for h in layer_outputs(self.model, places, names)]

    @contextmanager
    def _with(self, changed: State) -> Iterator[None]:
        """Give the model the new values of some tensors within the block."""
        saved = {name: self._parameters[name].detach().clone() for name in changed}
        try:
            for name, value in changed.items():
                self._parameters[name].data.copy_(value)
            yield
        finally:
            for name, value in saved.items():
                self._parameters[name].data.copy_(value)


@torch.enable_grad()
def search_targets(model: Any, rows: Sequence[Encoded], name: str, search: TargetSearch, pad_id: int) -> Tensor:
    """Return states h + delta of a module at the last prompt token of each row, on the CPU in float64: (B, D).

    Adam minimises, for each row, the mean NLL of its answer's tokens + decay ||delta|| / ||h||^2. A row stops at its
    own loss, so rows do not affect each other.
    """
    starts, counts = [row.n_prompt - 1 for row in rows], [row.n_answer for row in rows]
    row_N, pos_N = (torch.from_numpy(x) for x in ragged(starts, counts))
    at = _padded(model, rows, row_N, pos_N, pad_id)
    device = at.ids_BT.device
    rows_B, last_B = torch.arange(len(rows), device=device), torch.tensor(starts, device=device)
    state_BD = layer_outputs(model, BatchPositions(at.ids_BT, at.mask_BT, rows_B, last_B), [name])[0].detach()
    size_B, n_B = state_BD.norm(dim=-1), torch.tensor(counts, device=device).clamp(min=1)
    delta_BD, done_B = torch.zeros_like(state_BD, requires_grad=True), torch.zeros_like(size_B, dtype=torch.bool)
    optimizer = torch.optim.Adam([delta_BD], lr=search.rate)
    for step in range(search.steps):
        with _shifted(model, name, rows_B, last_B, delta_BD):
            logps_N = _logps(model, at)
        nll_B = torch.zeros_like(size_B).index_add(0, at.row_N, -logps_N.to(size_B)) / n_B
        loss_B = nll_B + search.decay * delta_BD.norm(dim=-1) / size_B**2
        done_B |= loss_B.detach() < search.enough
        if step == search.steps - 1 or bool(done_B.all()):
            break
        before = delta_BD.detach().clone()
        (delta_BD.grad,) = torch.autograd.grad(loss_B.sum(), delta_BD)
        optimizer.step()
        with torch.no_grad():
            limit_B = search.clamp * size_B / delta_BD.norm(dim=-1).clamp(min=torch.finfo(size_B.dtype).tiny)
            delta_BD *= limit_B.clamp(max=1)[:, None]
            delta_BD[done_B] = before[done_B]
    return (state_BD + delta_BD.detach()).double().cpu()


@contextmanager
def _shifted(model: Any, name: str, row_B: Tensor, pos_B: Tensor, delta_BD: Tensor) -> Iterator[None]:
    """Add delta to a module's output at one position of each row within the block."""

    def change(_module: Any, _args: Any, output: Any) -> Any:
        whole = output[0] if isinstance(output, tuple) else output
        new = whole.index_put((row_B, pos_B), delta_BD.to(whole), accumulate=True)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = find_module(model, name, key="method_args.block").register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


def _logps(model: Any, at: BatchPositions) -> Tensor:
    """Return the log-probabilities of the tokens after the N positions."""
    out = forward_at_once(model, at, use_mask=False, head=capabilities_of(model).head)
    return token_logps(out.logits_NV, at.ids_BT[at.row_N, at.pos_N + 1])


def _padded(model: Any, rows: Sequence[Encoded], row_N: Tensor, pos_N: Tensor, pad_id: int) -> BatchPositions:
    """Return positions of rows that are padded on the right, on the model's device."""
    ids, mask = pad([row.ids for row in rows], pad_id=pad_id, side="right")
    device = next(model.parameters()).device
    return BatchPositions(ids.to(device), mask.to(device), row_N.to(device), pos_N.to(device))


def _counts(row: Encoded, at: Positions) -> int:
    return 1 if at == "last" else row.n_prompt if at == "prompt" else len(row.ids)


def _batches(rows: Sequence[Encoded], budget: int = SCORED_TOKENS) -> Iterator[tuple[list[Encoded], tuple[int, ...]]]:
    """Yield batches of rows of similar length, with the places of their rows."""
    for places in budget_batches(range(len(rows)), [len(row.ids) for row in rows], budget):
        yield [rows[i] for i in places], tuple(places)
