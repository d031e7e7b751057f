"""Hidden states of several modules of a model, inputs or outputs, at the scored positions of a batch.

A module is named as in the model: `model.layers.7` is its output, `model.layers.7:input` its input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from expunge.models.capabilities import capabilities_of, forward_options
from expunge.models.packed import BatchPositions, find_module, single_rows

KEY = "trainer.method_args"


class _StopForward(Exception):
    """Raised inside a forward to end it once every hidden state is there."""


def layer_outputs(model: Any, at: BatchPositions, names: Sequence[str]) -> list[Tensor]:
    """Return the hidden states of each module at the N positions, each (N, D); later modules do not run.

    Rows must be right-padded. Raises ConfigError if the model has no module of a name.
    """
    if capabilities_of(model).padded or len(at.ids_BT) == 1:
        return _up_to_the_last(model, at, names)
    alone = list(single_rows(at).values())
    place_N = torch.cat([index_N for _, index_N in alone]).argsort()
    rows = [_up_to_the_last(model, one, names) for one, _ in alone]
    return [torch.cat(of_one)[place_N] for of_one in zip(*rows, strict=True)]


@contextmanager
def hidden_states_in(model: Any, at: BatchPositions, names: Sequence[str]) -> Iterator[Callable[[], Sequence[Tensor]]]:
    """Record hidden states of one whole forward within the block; yield a function that returns them.

    A model that reads each row by itself runs up to the modules once more.
    """
    if names and not capabilities_of(model).padded and len(at.ids_BT) > 1:
        yield lambda: layer_outputs(model, at, names)
        return
    with _recorded(model, at, names) as states:
        yield lambda: [states[name] for name in names]


def _up_to_the_last(model: Any, at: BatchPositions, names: Sequence[str]) -> list[Tensor]:
    with _recorded(model, at, names, stop=True) as states, suppress(_StopForward):
        model(input_ids=at.ids_BT, **forward_options(model, use_cache=False))
    return [states[name] for name in names]


@contextmanager
def _recorded(
    model: Any, at: BatchPositions, names: Sequence[str], *, stop: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Yield a mapping that receives the first hidden state of each name. stop: end the forward when all are there."""
    states: dict[str, Tensor] = {}

    def record(name: str, value: Any) -> None:
        if name not in states:
            states[name] = (value[0] if isinstance(value, tuple) else value)[at.row_N, at.pos_N]
        if stop and len(states) == len(set(names)):
            raise _StopForward

    with ExitStack() as hooks:
        for name in dict.fromkeys(names):
            module_name, _, place = name.partition(":")
            module = find_module(model, module_name, key=KEY)
            if place == "input":

                def before(_module: Any, args: Any, kwargs: Any, name: str = name) -> None:
                    record(name, args[0] if args else kwargs["hidden_states"])

                handle = module.register_forward_pre_hook(before, with_kwargs=True)
            else:

                def after(_module: Any, _args: Any, output: Any, name: str = name) -> None:
                    record(name, output)

                handle = module.register_forward_hook(after)
            hooks.callback(handle.remove)
        yield states
