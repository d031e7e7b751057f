"""The Python blocks of the how-to and explanation pages run, page by page, on small models."""

from __future__ import annotations

import ast
import copy
import importlib.util
import inspect
import pathlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_commands import PAGES, ROOT
from tests.methods.conftest import side

from tutorial_blocks import SMALLER, PageRun, blocks_of, differences, shown

__all__ = ["side"]  # a fixture

TESTED = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/index.md",
    "docs/how-to/audit.md",
    "docs/how-to/extend.md",
    "docs/tutorials/",
)
"""Pages that test_tutorials.py covers, and CONTRIBUTING.md, whose blocks are two files: a method and its test."""

OWN: dict[str, str] = {
    "docs/explanation/audits.md": """
from expunge.core.records import GeneratedText
from expunge.evaluation import generation
real = generation.generate_texts

def replies(model, prompts, *more, **settings):
    if prompts.name != "asked":
        return real(model, prompts, *more, **settings)
    questions = [row.question.rpartition(chr(10))[2] for row in prompts]  # the last line of a request
    return [GeneratedText(i, 0, q, f"Tell me: {q}", q, 4, True) for i, q in enumerate(questions)]

monkeypatch.setattr(generation, "generate_texts", replies)  # a small model writes no questions
full.save_pretrained("HuggingFaceTB/SmolLM2-1.7B-Instruct")
tokenizer.save_pretrained("HuggingFaceTB/SmolLM2-1.7B-Instruct")
""",
    "docs/how-to/semeval.md": """
import expunge.semeval
from reader_folder import write_semeval
write_semeval(pathlib.Path("rows"), documents=1)
model_path, output_dir, other_dir, forget_dir, retain_dir = "given", "out", "other", "rows/forget", "rows/retain"
real = expunge.semeval.unlearn

def short(*paths, overrides=(), **limits):
    sizes = ["num_train_epochs=1" if overrides else "max_steps=2", "gradient_accumulation_steps=1"]
    return real(*paths, overrides=[*overrides, *(f"trainer.args.{size}" for size in sizes)], **limits)

monkeypatch.setattr(expunge.semeval, "unlearn", short)
""",
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
@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
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
    runner.namespace["monkeypatch"] = monkeypatch
    exec(OWN.get(page.relative_to(ROOT).as_posix(), ""), runner.namespace)
    printed = ""
    for block in blocks_of(text):
        if block.language == "python" and block.runs:
            printed = runner.run(block)
        elif block.comment == "output":
            assert differences(block, shown(printed, block.note)) == []


def test_the_method_of_the_contribution_guide_passes_its_test(
    side: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, test = (b.code for b in blocks_of((ROOT / "CONTRIBUTING.md").read_text("utf-8")) if b.language == "python")
    name = "expunge.methods.floor_ascent"
    (tmp_path / "floor_ascent.py").write_text(method)
    spec = importlib.util.spec_from_file_location(name, tmp_path / "floor_ascent.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    tests: dict[str, Any] = {}
    exec(compile(test, "<test of FloorAscent>", "exec"), tests)
    for function in [value for key, value in tests.items() if key.startswith("test_")]:
        function(**({"side": side} if "side" in inspect.signature(function).parameters else {}))
