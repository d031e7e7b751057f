"""Fixtures every test may use."""

from __future__ import annotations

import gc
import json
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.upload_stub import Hub
from tests.warm import Warm

from expunge.core.registry import Registry

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it: no test asks a hub, nor waits for one
ROOT = Path(__file__).resolve().parent.parent
MICRO = (
    "study=quickstart",
    "model=llama-64k",
    "data.world.authors=6",
    "data.world.questions_per_author=4",
    "data.world.forget_fraction=0.34",
    "data.world.facts=6",
    "data.world.holdout_authors=2",
    "train.num_train_epochs=4",
    "unlearn.num_train_epochs=2",
    "eval.generation.max_new_tokens=6",
)


@pytest.fixture(autouse=True, scope="module")
def _quick_collections() -> None:
    """Keep the objects of imports out of garbage collections: each training of transformers asks for one (.3 s)."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let the end of the process find all objects again: duckdb names those that are left."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _trials_without_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try models and tokenizers in the process of the tests: a process of their own imports transformers again."""
    from expunge.models import trial, trial_child

    monkeypatch.setattr(trial, "run_limited", lambda program, request, limits, **how: trial_child.main(request))


@pytest.fixture(autouse=True)
def _registrations_undone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove the entries of plugins after the test that loads them: other files of tests read the registries, too."""
    added, add = [], Registry.add

    def note(registry: Registry[Any], entry: Any, aliases: Iterable[str] = ()) -> None:
        known = entry.name in registry
        add(registry, entry, aliases)
        if not known:
            added.append((registry, entry.name))

    monkeypatch.setattr(Registry, "add", note)
    yield
    for registry, name in added:
        registry.remove(name)


METHOD = '''
import os
from dataclasses import dataclass
from pathlib import Path
from torch import Tensor
from expunge.core.decode import strict
from expunge.methods.api import Requirements, Quantity, LossInputs, method
from expunge.methods.terms import require


@method("{name}", revision=1, needs=Requirements(forget=Quantity.LOGPS), paper="none", retain_loss_type=None)
@strict
@dataclass(frozen=True, kw_only=True)
class {name}:
    """A method of a user's own."""

{body}
'''


@pytest.fixture
def method_file() -> Callable[..., Path]:
    """Writes a plugin file with a method of this name and body."""

    def write(folder: Path, name: str, body: str) -> Path:
        file = folder / "mine.py"
        file.write_text(METHOD.format(name=name, body=textwrap.indent(textwrap.dedent(body).strip(), "    ")))
        return file

    return write


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub that keeps what it receives."""
    stub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: stub)
    return stub


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """A process that has imported the libraries, for programs that need no interpreter of their own."""
    process = Warm(tmp_path_factory.mktemp("warm"))
    yield process
    process.end()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and golden numbers beside the project; tests that read it skip where it is absent."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared (real data and golden numbers) is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def micro() -> list[str]:
    """The words of `expunge run` for a study small enough to run many times: a 64k-parameter model on six invented
    authors. Add `paths.store=` and `paths.output_dir=`."""
    return list(MICRO)


def _lines(path: Path, records: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _choices(n: int, about: str) -> list[dict[str, object]]:
    return [
        {
            "question": f"Which {about} is number {i}?",
            "choices": ["one", "two of them", "three", "four"],
            "answer": i % 4,
        }
        for i in range(n)
    ]


@pytest.fixture(scope="session")
def muse_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the hub's MUSE-News layout, with invented texts."""
    folder = tmp_path_factory.mktemp("muse")

    def texts(who: str, n: int) -> list[dict[str, object]]:
        return [{"text": f"{who} {i} went to town {7 * i} and met the mayor, who said no. " * 6} for i in range(n)]

    for name, records in {
        "raw/forget": texts("Anna", 4),
        "raw/retain1": texts("Bert", 5),
        "raw/retain2": texts("Cora", 6),
        "raw/holdout": texts("Dora", 4),
        "privleak/forget": texts("Anna", 4),
        "privleak/holdout": texts("Dora", 3),
        "verbmem/forget": [{"prompt": f"Anna {i} went to", "gt": f"town {7 * i} and met the mayor"} for i in range(4)],
        **{f"{s}/forget_{k}": texts(f"{s} {k}", k) for s in ("scal", "sust") for k in range(1, 5)},
    }.items():
        _lines(folder / f"{name}.json", records)
    for side, who in (("forget", "Anna"), ("retain", "Cora")):
        qa = [{"question": f"Where did {who} {i} go?", "answer": f"Town {7 * i}"} for i in range(6)]
        _lines(folder / f"knowmem/{side}_qa.json", qa[:4])
        _lines(folder / f"knowmem/{side}_qa_icl.json", qa[4:])
    return folder


@pytest.fixture(scope="session")
def wmdp_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of WMDP's questions and corpora, and of MMLU in the hub's layout below `mmlu`, all invented."""
    folder = tmp_path_factory.mktemp("wmdp")
    for subject in ("bio", "chem", "cyber"):
        _lines(folder / f"wmdp-{subject}" / "test.json", _choices(8, f"{subject} fact"))
    for corpus in ("cyber-forget-corpus", "cyber-retain-corpus"):
        _lines(folder / f"{corpus}.jsonl", [{"text": f"{corpus} text {i} about ports. " * 30} for i in range(6)])
    for split, n in (("test", 6), ("dev", 5)):
        both = [r | {"subject": s} for s in ("anatomy", "us_law") for r in _choices(n, s)]
        _lines(folder / "mmlu" / "all" / f"{split}.json", both)
    return folder
