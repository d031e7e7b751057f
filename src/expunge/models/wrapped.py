"""A model is weights plus a wrapper: unlearning at inference, as a model that is scored, audited and saved like others.

A wrapper is a frozen dataclass of settings. `prepare` computes its tensors once, from the model, the tokenizer and the
examples. After that it either changes hidden states inside the model's own forward (`hooks`), or computes logits from
token ids (`logits`). A model folder holds a wrapper in `wrapper.json` and `wrapper_state.safetensors`; loading the
folder gives the wrapped model, and the files belong to its identity.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from expunge.core.errors import ConfigError
from expunge.core.plugin_code import declared
from expunge.models.capabilities import forward_options, kept_modes, logits_in
from expunge.models.config import WRAPPER
from expunge.models.identity import source_identity
from expunge.models.wrapper_api import Wrapper, check_helpers, make_wrapper, wrapper_registry

STATE = "wrapper_state.safetensors"


class WrappedModel(nn.Module):
    """A causal language model with a wrapper around its forward. Read it as any other: `evaluate`, `audit`, `inspect`.

    `expunge.wrap` makes one from examples.

    Args:
        model: The model.
        wrapper: The wrapper's settings.
        state: Its tensors, from `prepare`.
        helpers: The other models that the wrapper reads, by its roles. They are never trained.
    """

    def __init__(self, model: Any, wrapper: Wrapper, state: Mapping[str, Tensor], helpers: Sequence[Any] = ()) -> None:
        super().__init__()
        if isinstance(model, WrappedModel):
            raise ConfigError("wrapper: the model has a wrapper already; a model has one at most")
        self.inner, self.wrapper = model, wrapper
        self._names = tuple(state)
        for name, tensor in state.items():
            if not isinstance(tensor, Tensor):
                raise ConfigError(
                    f"{type(wrapper).__name__}: prepare returned {type(tensor).__name__} for {name!r}; return tensors, "
                    "and keep other values as settings"
                )
            self.register_buffer(f"state_{name}", tensor, persistent=False)
        self.head = _LogitsHead(model.get_output_embeddings())
        check_helpers(wrapper, helpers)
        # no submodules, so that no optimizer and no weight edit reaches them
        self._helpers = tuple(helpers)
        self.to(next(model.parameters()).device)

    @property
    def state(self) -> dict[str, Tensor]:
        """The wrapper's tensors by name."""
        return {name: getattr(self, f"state_{name}") for name in self._names}

    @property
    def helper(self) -> Any:
        """The second model, or a pair of models, on the device of the first; None without one."""
        there = tuple(one.to(self.device) for one in self._helpers)
        return there if len(there) > 1 else next(iter(there), None)

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.inner.config

    @property
    def generation_config(self) -> Any:
        """The model's generation settings."""
        return getattr(self.inner, "generation_config", None)

    @property
    def device(self) -> torch.device:
        """The device of the first parameter."""
        device: torch.device = next(self.inner.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the model's weights."""
        dtype: torch.dtype = self.inner.dtype
        return dtype

    def get_input_embeddings(self) -> Any:
        """Return the model's embedding table."""
        return self.inner.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        """Return the LM head; of a wrapper over logits, a module that receives the final logits."""
        return self.inner.get_output_embeddings() if hasattr(self.wrapper, "hooks") else self.head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int = 0,
    ) -> Any:
        """Return an output with `logits`, as the model's own forward does.

        Raises NotImplementedError for a cache, if the wrapper computes logits from whole rows.
        """
        if hasattr(self.wrapper, "hooks"):
            options = {
                "attention_mask": attention_mask, "position_ids": position_ids, "past_key_values": past_key_values,
                "use_cache": use_cache, "output_hidden_states": output_hidden_states, "logits_to_keep": logits_to_keep,
            }  # fmt: skip
            options = forward_options(self.inner, **{k: v for k, v in options.items() if v is not None})
            with self.wrapper.hooks(self.inner, self.state):
                return self.inner(input_ids=input_ids, **options)
        if past_key_values is not None:
            raise NotImplementedError(f"{type(self.wrapper).__name__} reads whole rows and keeps no cache")
        ids_BT, back_BT = _padded_right(input_ids, attention_mask)
        logits_BTV = self.wrapper.logits(self.inner, self.helper, self.state, ids_BT)  # type: ignore[attr-defined]
        if back_BT is not None:
            logits_BTV = logits_BTV.gather(1, back_BT[:, :, None].expand_as(logits_BTV))
        last_BTV = logits_BTV[:, -logits_to_keep:] if logits_to_keep else logits_BTV
        return SimpleNamespace(logits=self.head(last_BTV), past_key_values=None)

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Write the model, then the wrapper next to its weights."""
        target = Path(folder)
        if "state_dict" in options:
            own = options["state_dict"].items()
            options["state_dict"] = {k.removeprefix("inner."): v for k, v in own if k.startswith("inner.")}
        self.inner.save_pretrained(target, **options)
        content = wrapper_registry().identity(self.wrapper)
        for role, one in zip(wrapper_registry()[content["name"]].helpers, self._helpers, strict=True):
            one.save_pretrained(target / role)
            content[role] = source_identity(str(target / role), None)
        state = {name: tensor.contiguous().cpu() for name, tensor in self.state.items()}
        safetensors.torch.save_file(state, target / STATE)
        (target / WRAPPER).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


class _LogitsHead(nn.Identity):
    """Receives the final logits where a model has its LM head, so that readers may select positions."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.out_features = int(head.weight.shape[0])

    @property
    def weight(self) -> Tensor:
        """An empty weight with one row per logit, for readers that count the logits."""
        return torch.empty(self.out_features, 0)


def load_wrapped(model: Any, folder: Path, load_helper: Callable[[Path], Any]) -> WrappedModel:
    """Put the wrapper of a model's folder around it. Raises ConfigError for damaged files and another revision.

    The folder was checked before (`models.passport.check_folder`), so the wrapper is registered.
    """
    try:
        content = json.loads((folder / WRAPPER).read_text(encoding="utf-8"))
        name, revision, args = str(content["name"]), int(content["revision"]), dict(content["args"])
        state = safetensors.torch.load_file(folder / STATE)
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise ConfigError(f"model {folder}: {WRAPPER} is damaged: {error}; wrap the model again") from None
    rule = make_wrapper(name, args, f"model {folder}: {WRAPPER}")
    spec = wrapper_registry()[name]
    if declared(spec.revision) != declared(revision):
        raise ConfigError(f"model {folder}: {WRAPPER} has revision {revision} of {name}; wrap the model again")
    for role in spec.helpers:
        # files, because the weights in memory depend on the dtype of loading
        if not (folder / role).is_dir() or source_identity(str(folder / role), None) != content.get(role):
            raise ConfigError(f"model {folder}: {role} has other files than {WRAPPER} names; wrap the model again")
    return WrappedModel(model, rule, state, [load_helper(folder / role) for role in spec.helpers]).eval()


def next_token_logits(model: Any, ids_BT: Tensor) -> Tensor:
    """Return logits_BTV of rows padded on the right, without a mask."""
    out: Tensor = logits_in(model(input_ids=ids_BT, **forward_options(model, use_cache=False)))
    return out


def helper_logits(helper: Any, ids_BT: Tensor, own_BTV: Tensor, name: str) -> Tensor:
    """Return a helper's logits_BTV in the dtype of the model's. Raises ConfigError for another vocabulary."""
    with kept_modes(helper), torch.no_grad():  # the helper may be a model that its owner trains elsewhere
        helper.eval()
        other_BTV = next_token_logits(helper, ids_BT)
    if own_BTV.shape != other_BTV.shape:
        raise ConfigError(
            f"{name}: the helper has {other_BTV.shape[-1]} logits, the model {own_BTV.shape[-1]}; use a helper with "
            "the model's vocabulary"
        )
    return other_BTV.to(own_BTV)


@contextlib.contextmanager
def output_changed(module: Any, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the output of a module by `change(output)` within the block."""

    def hook(_module: Any, _args: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (change(output[0]), *output[1:])
        return change(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _padded_right(ids_BT: Tensor, mask_BT: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Move the padding of each row to the right; return also the places of the old columns in the new rows."""
    if mask_BT is None or bool(mask_BT[:, 0].all()):
        return ids_BT, None
    n = ids_BT.shape[1]
    place_T = torch.arange(n, device=ids_BT.device)
    first_B1 = mask_BT.int().argmax(1, keepdim=True)
    return ids_BT.gather(1, (place_T + first_B1) % n), (place_T - first_B1) % n
