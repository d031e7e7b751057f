"""Run the authors' code on the inputs of a file here, and compare or write its numbers.

    git clone https://github.com/REPOSITORY FOLDER && git -C FOLDER checkout COMMIT
    python tests/methods/conformance/measure.py NAME FOLDER            # compare with NAME.json
    python tests/methods/conformance/measure.py NAME FOLDER --write    # write the numbers into NAME.json

REPOSITORY and COMMIT are in NAME.json; `copy_of` is there where only a copy of the authors' repository was at hand.
Only the definitions that a case names are run, without the imports of their file, on a CPU and in float64: `float()` is
read as `double()`. The authors' code stays in FOLDER.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
DOUBLE = {".to('cuda')": "", ".float()": ".double()"}
Case = Callable[[Path, Mapping[str, Any]], Any]
CASES: dict[str, dict[str, Case]] = {}
LOOSE = {("undo", "noise"): 0.05, ("cir", "collapse"): 1e-6}  # random; a method with an error of that size


def case(name: str, part: str) -> Callable[[Case], Case]:
    """Register the run of one case: (folder of the authors' code, inputs) -> outputs."""

    def register(run: Case) -> Case:
        CASES.setdefault(name, {})[part] = run
        return run

    return register


def definitions(
    file: Path, names: Sequence[str], packages: Mapping[str, Any], changes: Mapping[str, str] | None = None
) -> SimpleNamespace:
    """Run the definitions of some functions and classes of a file, with `packages` in place of its imports.

    names: `CLASS.METHOD` for a method alone. changes: texts to replace, as `ast.unparse` writes them.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    scope: dict[str, Any] = {"torch": torch, "F": torch.nn.functional, "nn": torch.nn, "math": math, **packages}
    members = {}
    for name in names:
        body: list[Any] = tree.body
        for part in name.split("."):
            node = next(node for node in body if getattr(node, "name", None) == part)
            body = node.body
        text = "from __future__ import annotations\n" + ast.unparse(node)
        for old, new in (changes or {}).items():
            text = text.replace(old, new)
        exec(compile(text, str(file), "exec"), scope)
        members[part] = scope[part]
    return SimpleNamespace(**members)


def stub(name: str, **values: Any) -> None:
    """Put a module with some values in the place of a package that is not installed."""
    module = sys.modules.setdefault(name, ModuleType(name))
    for key, value in values.items():
        setattr(module, key, value)


def tensor(values: Any) -> torch.Tensor:
    """Return numbers as float64."""
    return torch.as_tensor(values, dtype=torch.float64)


def returns(logits: Any) -> Callable[..., Any]:
    """Return a model whose logits are these, (B, T, V)."""
    return lambda *args, **kwargs: SimpleNamespace(logits=logits, loss=torch.zeros(()))


def shifted(values: Any) -> torch.Tensor:
    """Return the logits of N scored positions as those of one row of N + 1 tokens, (1, N + 1, V)."""
    rows = tensor(values)
    return torch.cat([rows, torch.zeros_like(rows[:1])])[None]


def labelled(n: int) -> torch.Tensor:
    """Return labels of one row, of which the first token is not scored, (1, N + 1)."""
    return torch.tensor([[-100] + [0] * n])


def plain(value: Any) -> Any:
    """Return tensors as lists, and infinities as text."""
    if isinstance(value, torch.Tensor):
        value = value.detach().tolist()
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def difference(left: Any, right: Any) -> float:
    """Return the largest difference of two results, relative to numbers above 1."""
    if isinstance(left, Mapping):
        return max(difference(left[key], right[key]) for key in right)
    if isinstance(left, list):
        return max((difference(a, b) for a, b in zip(left, right, strict=True)), default=0.0)
    if isinstance(left, str):
        return 0.0 if left == right else math.inf
    return abs(left - right) / max(1.0, abs(right))


def main(words: Sequence[str] | None = None) -> int:
    """Measure the cases of one file. Returns 1 if a number differs."""
    import authors_losses  # noqa: F401  # registers its cases
    import authors_training  # noqa: F401
    import authors_weights  # noqa: F401

    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("name", choices=sorted(CASES), help="a file here, without .json")
    parser.add_argument("folder", type=Path, help="a checkout of the authors' repository")
    parser.add_argument("--write", action="store_true", help="write the numbers instead of comparing them")
    options = parser.parse_args(words)
    file = HERE / f"{options.name}.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    head = subprocess.run(
        ["git", "-C", str(options.folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    if head != content["commit"]:
        print(f"{options.folder} is at commit {head or 'unknown'}; the file names {content['commit']}")
    torch.set_default_dtype(torch.float64)
    worst = 0.0
    for part, values in content["cases"].items():
        torch.manual_seed(0)
        with contextlib.redirect_stdout(None):  # the authors' code prints its steps
            outputs = plain(CASES[options.name][part](options.folder, values["inputs"]))
        if options.write:
            values["outputs"] = outputs
            continue
        off = difference(outputs, values["outputs"])
        worst = max(worst, off / LOOSE.get((options.name, part), 1e-12))
        print(f"{options.name} {part}: largest difference {off:.2g}")
    if options.write:
        command = f"python tests/methods/conformance/measure.py {options.name} FOLDER --write"
        measured = content.pop("cases")
        content |= {"commit": head or content["commit"], "command": command, "cases": measured}
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return int(worst > 1)


if __name__ == "__main__":
    sys.modules["measure"] = sys.modules["__main__"]  # the files of cases register here
    sys.exit(main())
