"""The package is complete: metadata, data, locks, the container, and a wheel that works in an empty environment."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import expunge

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "expunge"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DATA = PROJECT["tool"]["setuptools"]["package-data"]["expunge"]


def pins(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def data_files() -> set[str]:
    files = (path for path in SOURCE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(SOURCE).as_posix() for path in files if path.suffix != ".py"}


def test_every_data_file_is_in_the_wheel() -> None:
    patterns = [pattern.replace("**/", "*") for pattern in DATA]
    assert {name for name in data_files() if not any(fnmatch(name, pattern) for pattern in patterns)} == set()
    assert (SOURCE / "py.typed").exists()  # type checkers of users read the annotations


def test_one_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert expunge.__version__ == PROJECT["project"]["version"] == citation["version"]
    assert citation["license"] == PROJECT["project"]["license"]
    assert f"\n## {expunge.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_metadata_is_complete() -> None:
    project = PROJECT["project"]
    assert project["dynamic"] == ["readme"]
    assert {"description", "license-files", "keywords", "classifiers", "requires-python"} <= set(project)
    lowest = Version(project["requires-python"].removeprefix(">="))
    versions = [c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert Version(versions[0]) == lowest


def relative_links(text: str) -> list[str]:
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", prose) if not re.match(r"[a-z]+:|#", link)]


def test_a_package_index_gets_no_link_that_leads_nowhere() -> None:
    index_page = runpy.run_path(str(ROOT / "setup.py"))["index_page"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(relative_links(readme)) > 20  # test_links.py checks that each one leads to a file
    assert relative_links(index_page(readme, None)) == []
    placed = index_page(readme, "https://x.example/expunge/")
    assert relative_links(placed) == [] and len(placed) > len(readme)
    files = re.findall(r"\(https://x\.example/expunge/([^)#]+)", placed)
    assert len(files) > 20 and all((ROOT / file).exists() for file in files)


@pytest.mark.parametrize(
    ("text", "plain", "placed"),
    [
        ("See [a page](docs/a.md#b).", "See a page.", "See [a page](https://x/docs/a.md#b)."),
        ("![a picture](a.png)", "", "![a picture](https://x/a.png)"),
        ("[x](https://y/z) [t](#t)", "[x](https://y/z) [t](#t)", "[x](https://y/z) [t](#t)"),
        ("`[a](b)`\n```\n[a](b)\n```\n", "`[a](b)`\n```\n[a](b)\n```\n", "`[a](b)`\n```\n[a](b)\n```\n"),
    ],
)
def test_links_for_a_package_index(text: str, plain: str, placed: str) -> None:
    index_page = runpy.run_path(str(ROOT / "setup.py"))["index_page"]
    assert index_page(text, None) == plain and index_page(text, "https://x") == placed


def test_the_lowest_versions_are_those_of_the_metadata() -> None:
    requirements = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
    lowest = {r.name: str(r.specifier).removeprefix(">=") for r in requirements}
    assert pins("constraints-lowest.txt") == lowest


def test_the_locks_are_within_the_ranges() -> None:
    locked = {name.lower().replace("_", "-"): version for name, version in pins("requirements.lock").items()}
    for requirement in map(Requirement, PROJECT["project"]["dependencies"]):
        name = requirement.name.lower().replace("_", "-")
        assert requirement.specifier.contains(locked[name].partition("+")[0]), name


def test_the_containers_run_without_root() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    stages = {m[2]: m[3] for m in re.finditer(r"FROM (\S+) AS ([\w-]+)\n(.*?)(?=^FROM|\Z)", text, re.M | re.S)}
    assert {"cpu", "cuda", "development"} <= set(stages)
    assert ":latest" not in text
    for body in stages.values():
        users = re.findall(r"^USER (\S+)$", body, re.MULTILINE)
        assert not users or users[-1] == "1000"
    for source in re.findall(r"^COPY \S+ (.+) \S+$", text, re.MULTILINE):
        ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
        assert all((ROOT / name).exists() and f"!{name}" in ignored for name in source.split())
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert container["build"]["target"] in stages and container["remoteUser"] == "expunge"
    assert container["postCreateCommand"].endswith("make install")  # the image has the packages, not expunge itself


def test_the_issue_templates_are_forms() -> None:
    for file in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert file.stem == "config" or {"name", "description", "body"} <= set(form)


def run(*words: str | Path, cwd: Path, **env: str) -> str:
    """Run a program outside the checkout. Returns its output; fails with the errors."""
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, words)], cwd=cwd, capture_output=True, text=True, env=clean | env, timeout=1200)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist and the wheel, built by `python -m build` from a copy of the tracked files."""
    folder = tmp_path_factory.mktemp("build")
    builder = folder / "builder"
    venv.create(builder, with_pip=True)
    names = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).split("\n")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            target = folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    run(builder / "bin" / "python", "-m", "pip", "install", "-q", "build", cwd=folder)
    run(builder / "bin" / "python", "-m", "build", "--outdir", folder / "dist", folder / "source", cwd=folder)
    return next((folder / "dist").glob("*.tar.gz")), next((folder / "dist").glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_and_the_sdist_contain_everything(built: tuple[Path, Path]) -> None:
    sdist, wheel = built
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
        metadata = next(archive.read(name).decode() for name in packed if name.endswith("METADATA"))
    sources = {f"expunge/{path.relative_to(SOURCE).as_posix()}" for path in SOURCE.rglob("*.py")}
    assert sources | {f"expunge/{name}" for name in data_files()} <= packed
    assert not [name for name in packed if name.startswith(("tests/", "docs/", "perf/"))]
    assert "# Expunge" in metadata and "Requires-Python: >=3.11" in metadata
    assert "Description-Content-Type: text/markdown" in metadata
    assert "import expunge" in metadata and relative_links(metadata) == []
    with tarfile.open(sdist) as archive:
        assert {"LICENSE", "README.md", "pyproject.toml"} <= {name.partition("/")[2] for name in archive.getnames()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_it_works_in_an_empty_environment(built: tuple[Path, Path], kind: str, tmp_path: Path) -> None:
    archive = built[kind == "wheel"]
    empty = tmp_path / "empty"
    venv.create(empty, with_pip=True)
    python = empty / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--no-deps", archive, cwd=tmp_path)
    # The dependencies are those of this environment: to load torch again for each test would take gigabytes.
    site = next((empty / "lib").glob("python*/site-packages"))
    own = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(own) + "\n", encoding="utf-8")
    where = run(python, "-c", "import expunge; print(expunge.__file__)", cwd=tmp_path)
    assert where.startswith(str(site))
    command = empty / "bin" / "expunge"
    assert run(command, "--version", cwd=tmp_path).strip() == f"expunge {expunge.__version__}"
    assert "NPO" in json.loads(run(command, "list", "methods", "--json", cwd=tmp_path))
    assert "full" in run(command, "plan", "study=quickstart", cwd=tmp_path, HF_HUB_OFFLINE="1")
