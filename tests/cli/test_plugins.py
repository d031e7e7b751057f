"""A method from a user's own file: listed, checked and run like the others."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from expunge.methods import api

Run = Callable[..., tuple[int, str, str]]

MINE = '''
from dataclasses import dataclass
from torch import Tensor
from expunge.core.decode import strict
from expunge.methods.api import Needs, Serve, View, method
from expunge.methods.terms import served


@method("HalfAscent", revision=1, needs=Needs(forget=Serve.LOGPS), paper="none", retain_loss_type=None)
@strict
@dataclass(frozen=True, kw_only=True)
class HalfAscent:
    """Gradient ascent, scaled."""

    share: float = 0.5

    def forget_loss(self, view: View) -> Tensor:
        return -self.share * served(view.forget, "forget").nll
'''


@pytest.fixture
def mine(here: Path) -> Iterator[Path]:
    """A plugin file; what it registers is taken away again."""
    (here / "mine.py").write_text(MINE)
    yield here / "mine.py"
    api._REGISTRY.remove("HalfAscent")


def test_a_method_from_a_file(mine: Path, expunge: Run) -> None:
    code, out, said = expunge("methods", "--json", "--plugin", "mine.py")
    assert code == 0, said
    assert json.loads(out)["HalfAscent"]["settings"]["share"] == 0.5
    words = ("study=quickstart", "methods=[{trainer: HalfAscent, method_args: {share: 0.1}}]", "--json")
    code, out, said = expunge("plan", "--plugin", "mine.py", *words)
    assert code == 0, said
    assert any(job["label"] == "HalfAscent(share=0.1)" for job in json.loads(out))


@pytest.mark.parametrize(
    ("text", "part"),
    [("1 +", "SyntaxError"), ("import nothing_of_this_name", "ModuleNotFoundError"), (None, "no file")],
)
def test_a_broken_file_is_told_in_one_line(text: str | None, part: str, here: Path, expunge: Run) -> None:
    if text is not None:
        (here / "bad.py").write_text(text)
    code, _, said = expunge("methods", "--plugin", "bad.py")
    assert code == 2
    assert len(said.splitlines()) == 1
    assert "bad.py" in said
    assert part in said
