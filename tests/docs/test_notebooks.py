"""The notebooks are those of the tutorials, and run in Jupyter."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tutorial_blocks import NOTEBOOKS, notebooks

NAMES = [path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb"))]


def test_the_notebooks_are_up_to_date() -> None:
    written = {path: path.read_text(encoding="utf-8") for path in NOTEBOOKS.glob("*.ipynb")}
    assert written == notebooks(), "run: python docs/tutorial_blocks.py notebooks"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_opens_alone(name: str) -> None:
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    assert [cell["metadata"] for cell in cells if "setup" in cell["metadata"].get("tags", ())]
    assert len({cell["id"] for cell in cells}) == len(cells)
    text = "".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
    assert "](" not in text.replace("](http", "")  # no link to a file that is not there


@pytest.mark.notebook
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(("2", "3", "4"))])  # minutes each
def test_a_notebook_runs_in_jupyter(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbclient
    import nbformat

    # the shell commands of a notebook are those of this environment, as in an activated one
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    notebook.cells = [cell for cell in notebook.cells if "setup" not in cell.metadata.get("tags", ())]
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert not [out for cell in notebook.cells for out in cell.get("outputs", ()) if out.output_type == "error"]
