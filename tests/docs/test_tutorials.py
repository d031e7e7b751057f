"""Every block of the tutorials runs, and prints lines that begin as the page shows them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.warm import Warm

import tutorial_blocks
from tutorial_blocks import ROOT, TUTORIALS, blocks_of, differences, run_page, shown

HOW_TOS = ROOT / "docs" / "how-to"
PAGES = [*sorted(TUTORIALS.glob("[0-9]*.md")), HOW_TOS / "audit.md", HOW_TOS / "extend.md", ROOT / "docs" / "index.md"]
HOME = ROOT / "docs" / "index.md"


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page != HOME], ids=lambda page: page.stem)
def test_a_tutorial_runs_as_it_is_written(page: Path, tmp_path: Path, warm: Warm) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "EXPUNGE_PYTHON": warm.python}
    words = [str(ROOT / "docs" / "tutorial_blocks.py"), "run", str(page)]
    done = warm.run(words, tmp_path, environment=environment, timeout_s=1200)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_example_of_the_home_page_runs(tmp_path: Path) -> None:
    (pair,) = run_page(HOME, tmp_path)
    assert differences(*pair) == []


def test_the_readme_shows_the_example_of_the_home_page() -> None:
    readme, home = (path.read_text(encoding="utf-8") for path in (ROOT / "README.md", HOME))
    for text in (readme, home):
        assert "Comparison(b - a)" in text
    block, output = list(blocks_of(home))[:2]
    assert block.code in readme and output.code in readme


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_output_follows_a_block_that_prints_it(page: Path) -> None:
    blocks = list(blocks_of(page.read_text(encoding="utf-8")))
    assert any(block.runs for block in blocks)
    for before, block in zip([None, *blocks], blocks, strict=False):
        if block.language in tutorial_blocks.RUNS:
            assert block.runs or block.note, "a block that is not run needs a reason"
        if block.comment == "output":
            assert before is not None and before.runs and not before.title
            assert block.code.strip(), "an output is missing: docs/tutorial_blocks.py update PAGE"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_text_before_a_file_names_it(page: Path) -> None:
    """The title of a block is not shown everywhere, and a reader must save the file by this name."""
    text = page.read_text(encoding="utf-8")
    for block in blocks_of(text):
        before = text[: text.rindex("```", 0, block.span[0])].rstrip().rpartition("\n\n")[2]
        assert not block.title or f"`{block.title}`" in before, block.title


def test_blocks_run_in_one_folder_and_one_namespace(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- in tests: big => small -->\n"
        '```yaml title="a.yaml"\nsize: big\n```\n'
        '```python\nfrom pathlib import Path\ntext = Path("a.yaml").read_text().strip()\n```\n'
        "<!-- not run: needs a cluster -->\n```bash\nexit 3\n```\n"
        "```bash\necho cat; cat a.yaml; echo last 3\n```\n"
        "<!-- output: last 2 -->\n```text\nsize\nlost 4\n```\n"
        "```python\nprint(text)\n```\n<!-- output -->\n```text\nsize: big\n```\n"
    )
    outputs = run_page(page, tmp_path)
    assert [text for _, text in outputs] == ["size: small\nlast 3\n", "size: small\n"]
    assert [differences(*pair) for pair in outputs] == [["lost"], []]


def test_a_failing_block_fails_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```bash\nfalse\n```\n")
    with pytest.raises(RuntimeError, match="exit code 1"):
        run_page(page, tmp_path)


def test_the_shown_lines_of_an_output() -> None:
    assert shown("a\n\nb  \nc\n", "first 2") == "a\nb\n"
    assert shown("a\n\nb  \nc\n", "") == "a\n\nb\nc\n"


def test_the_files_of_the_extension_page_are_the_examples() -> None:
    page = HOW_TOS / "extend.md"
    files = {block.title: block.code for block in blocks_of(page.read_text(encoding="utf-8")) if block.title}
    for name in ("hidden_norm.py", "capitals.py"):
        assert files[name] == (ROOT / "examples" / "plugins" / name).read_text(encoding="utf-8")
