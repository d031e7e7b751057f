"""The interface of a wrapper, and the registry. Importing this module loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.core.registry import Fidelity, Registry

if TYPE_CHECKING:
    from torch import Tensor

Helper = Literal["", "reinforced", "forget and retain", "method"]
HELPERS: Mapping[Helper, tuple[str, ...]] = {
    "": (),
    "reinforced": ("helper",),
    "forget and retain": ("helper", "retain_helper"),
    "method": ("unlearned",),
}
Pair = tuple[str, str]  # question and answer


@dataclass(frozen=True)
class WrapInputs:
    """All that a wrapper may read once: the model, its tokenizer, and the examples of both sides.

    forget_ids, retain_ids: (ids, n_prompt) of encoded examples. encode: the same of a question and an answer, as the
    template writes them. refusals: other answers to the forget questions.
    """

    model: Any
    tokenizer: Any
    forget: Sequence[Pair] = ()
    retain: Sequence[Pair] = ()
    forget_ids: Sequence[tuple[Sequence[int], int]] = ()
    retain_ids: Sequence[tuple[Sequence[int], int]] = ()
    encode: Callable[[str, str], tuple[Sequence[int], int]] | None = None
    refusals: Sequence[str] = ()


class Wrapper(Protocol):
    """A frozen dataclass of settings. It has `prepare`, and one of `hooks` and `logits`.

    `hooks(model, state)` is a context manager around the model's forward: caches and padded batches work as before.
    `logits(model, helper, state, ids_BT)` returns logits_BTV of rows padded on the right; each call reads whole rows.
    helper: the second model, a pair of them for a wrapper of two, or None.
    """

    def prepare(self, inputs: WrapInputs) -> dict[str, Tensor]:
        """Return the wrapper's tensors. Raises ConfigError if an input that it reads is missing."""
        ...


@dataclass(frozen=True)
class WrapperSpec:
    """A registered wrapper. helper: the other models that it reads, if any. In memory you pass any models.

    "reinforced": in a study, the model trained further on the forget examples. "forget and retain": in a study, two
    models, the initial model trained on the forget examples and the same trained on the retain examples. "method": in a
    study, the model of the method that `from` names, next to the target model.
    """

    name: str
    revision: int
    cls: type[Any]
    paper: str
    fidelity: Fidelity = ""
    helper: Helper = ""

    @property
    def helpers(self) -> tuple[str, ...]:
        """The roles of the helpers: their folders next to the model's weights, and their jobs in a study."""
        return HELPERS[self.helper]

    @property
    def page(self) -> str:
        """The user page of the wrapper: its class docstring."""
        return (self.cls.__doc__ or "").strip()


_REGISTRY: Registry[WrapperSpec] = Registry(
    "wrapper", lambda spec: spec.cls, folder="models/wrappers", decorator="wrapper"
)
C = TypeVar("C", bound=type[Any])


def wrapper(name: str, *, revision: int, paper: str, fidelity: Fidelity = "", helper: Helper = "") -> Callable[[C], C]:
    """Register a frozen dataclass as a wrapper under the name that users type."""

    def register(cls: C) -> C:
        _REGISTRY.add(WrapperSpec(name, revision, cls, paper, fidelity, helper))
        return cls

    return register


def wrapper_registry() -> Registry[WrapperSpec]:
    """Return all wrappers by name."""
    return _REGISTRY


def make_wrapper(name: str, args: Mapping[str, Any], where: str = "wrapper") -> Wrapper:
    """Decode the name and the settings of a wrapper. Raises ConfigError."""
    rule: Wrapper = decode(_REGISTRY.find(name, where).cls, args, where=f"{where}_args")
    return rule


def check_helpers(rule: Wrapper, helpers: Sequence[Any]) -> None:
    """Raise ConfigError unless there are as many helpers as a wrapper reads."""
    spec = _REGISTRY.of(rule)
    if len(helpers) == len(spec.helpers):
        return
    needs = {0: "reads no helper; leave helper out", 1: "needs a helper model; pass helper=MODEL",
             2: "needs two helper models; pass helper=(FORGET_MODEL, RETAIN_MODEL)"}  # fmt: skip
    raise ConfigError(f"{spec.name}: {needs[len(spec.helpers)]}")
