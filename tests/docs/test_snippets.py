"""The Python blocks of the how-to and explanation pages run, page by page, on small models."""

from __future__ import annotations

import ast
import copy
import importlib
import pathlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_commands import PAGES, ROOT

from tutorial_blocks import SMALLER, PageRun, blocks_of, differences, shown

TESTED = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/index.md",
    "docs/how-to/audit.md",
    "docs/how-to/extend.md",
    "docs/tutorials/",
)
"""Pages that test_tutorials.py covers, and CONTRIBUTING.md, whose blocks are files that the reader has to create."""

NOT_RUN = {"semeval.md": "two whole runs of a participant's pipeline take more than a minute on small models"}
"""Pages whose blocks are only compiled, and their names looked up."""

OWN: dict[str, str] = {
    "docs/how-to/inspect.md": """
from expunge.data.encoder import Encoder
from expunge.data.template import Template
encoder, folder, retain = Encoder(Template(), tokenizer), pathlib.Path("layers"), a
""",
    "docs/how-to/judges.md": """
from expunge.core.records import GeneratedText, texts_table
judge = expunge.RuleJudge(rules=[{"any_of": ["I cannot"]}])
table = texts_table([GeneratedText(0, 0, "Who?", "I cannot say.", "Ada", 4, True)])
""",
    "docs/how-to/library.md": """
from tiny import tofu_folder
tofu_folder(pathlib.Path("tofu"))
quickstart = pathlib.Path(expunge.__file__).parent / "conf/study/quickstart.yaml"
text = quickstart.read_text()
for old, new in (
    ("llama-1m", "llama-64k"), ("authors: 40, questions_per_author: 10", "authors: 10, questions_per_author: 4"),
    ("num_train_epochs: 20", "num_train_epochs: 1"), ("num_train_epochs: 5", "num_train_epochs: 1"), ("48}", "6}"),
):
    text = text.replace(old, new)
pathlib.Path("mine.yaml").write_text(text)
""",
    "docs/how-to/stories.md": """
from expunge.cli.main import main
stories = ["--in", "stories", "--vocab_size", "2048", "--workers", "1"]
assert main("data stories generate --n 80 --shards 4 --out stories --workers 1".split()) == 0
assert main("data stories train-vocab --in stories --vocab_size 2048".split()) == 0
variant = ["--filtering", "features!=Twist", "--dataset_name", "filter-Twist"]
assert main(["data", "stories", "pretokenize", *stories, *variant]) == 0
rows = forget
""",
}
"""Further names and files of one page."""


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """The names that a page assumes: a small world, and models that have learned a little of it."""
    import expunge
    from expunge.pipelines.study.demo import train_small_model

    world = expunge.demo_world(authors=10)  # 12 rows to forget: some audits train on 8
    sets = world.benchmark.sets
    full, retrained, model = (
        train_small_model(sets[name], world.tokenizer, epochs=4, seed=seed)
        for name, seed in (("full", 0), ("retain", 0), ("full", 1))
    )
    return {
        **{"world": world, "tokenizer": world.tokenizer, "benchmark": world.benchmark},
        **{"forget": world.forget, "retain": world.retain, "holdout": world.holdout, "unseen": world.holdout},
        **{"model": model, "unlearned": model, "full": full, "full_model": full, "b": full},
        **{"retain_model": retrained, "a": retrained, "controls": {"retain": retrained, "full": full}},
        **{"expunge": expunge, "pathlib": pathlib},
    }


def pages() -> list[Path]:
    texts = [(page, page.relative_to(ROOT).as_posix()) for page in PAGES]
    return [page for page, name in texts if not name.startswith(TESTED) and "\n```python" in page.read_text()]


def test_each_block_compiles_and_uses_public_names() -> None:
    import expunge

    for page in pages():
        for block in blocks_of(page.read_text(encoding="utf-8")):
            if block.language == "python":
                tree = ast.parse(block.code, page.name)
                assert {name for name in attributes(tree) if name not in expunge.__all__} == set(), page.name
                missing = [f"{module}.{name}" for module, name in imports(tree) if not importable(module, name)]
                assert missing == [], page.name


def attributes(tree: ast.Module) -> Iterator[str]:
    """Yield the names of `expunge.NAME`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "expunge":
            yield node.attr


def imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the module and the name of each `from expunge... import name`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("expunge"):
            yield from ((str(node.module), alias.name) for alias in node.names)


def importable(module: str, name: str) -> bool:
    return hasattr(importlib.import_module(module), name)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", [page for page in pages() if page.name not in NOT_RUN], ids=lambda page: page.stem)
def test_the_python_blocks_of_a_page_run_in_order(
    page: Path, names: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.chdir(tmp_path)
    text = page.read_text(encoding="utf-8")
    runner = PageRun(tmp_path, SMALLER.findall(text))
    for folder in ("given", "my/model"):
        names["full"].save_pretrained(folder)
        names["tokenizer"].save_pretrained(folder)
    runner.namespace |= names | {name: copy.deepcopy(names[name]) for name in ("model", "unlearned")}
    exec(OWN.get(page.relative_to(ROOT).as_posix(), ""), runner.namespace)
    printed = ""
    for block in blocks_of(text):
        if block.language == "python" and block.runs:
            printed = runner.run(block)
        elif block.comment == "output":
            assert differences(block, shown(printed, block.note)) == []
