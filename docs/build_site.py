"""Write the pages of the documentation site into `build/docs`, and `build/mkdocs.yml` next to it.

`make docs` calls this file, and then the site generator, which writes static files into `build/site`.

Pages link to files outside `docs/`, such as CHANGELOG.md and examples. The stage copies these files to `project/` and
changes the links, so that a strict build finds every target.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from pathlib import Path

import yaml

from reference_pages import reference

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
LINK = re.compile(r"(?P<head>\]\()(?P<target>[^)#\s]+)(?P<tail>(?:#[^)]*)?\))")
SECTIONS = {
    "Tutorials": "tutorials",
    "How-tos": "how-to",
    "Reference": "reference",
    "Explanations": "explanation",
    "Results": "results",
}
GENERATED = ("commands.md", "configuration.md", "methods.md", "metrics.md", "audits.md", "benchmarks.md", "library.md")


def stage(folder: Path) -> None:
    """Write every page of the site below a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    outside: dict[str, Path] = {}
    for picture in sorted((ROOT / "docs").rglob("*.png")):
        _copy(picture, folder / picture.relative_to(ROOT / "docs"), picture.name, outside)
    pages = {path.relative_to(ROOT / "docs").as_posix(): path for path in sorted((ROOT / "docs").rglob("*.md"))}
    for name, path in pages.items():
        _write(folder / name, relinked(path.read_text(encoding="utf-8"), name, outside))
    for name, text in reference().items():
        _write(folder / "reference" / name, text)
    done: set[str] = set()
    while waiting := sorted(set(outside) - done):  # a copied page may link to further files
        for name in waiting:
            done.add(name)
            _copy(outside[name], folder / name, name, outside)
    _write(folder / "llms.txt", (ROOT / "llms.txt").read_text(encoding="utf-8").replace(".md)", ".html)"))


def relinked(text: str, name: str, outside: dict[str, Path], base: str = "docs") -> str:
    """Return a page whose links to files outside `docs/` lead to copies of them; adds these files to `outside`."""

    def link(match: re.Match[str]) -> str:
        target = match["target"]
        if re.match(r"[a-z]+:", target):
            return match[0]
        source = posixpath.normpath(posixpath.join(base, posixpath.dirname(name), target))
        if source.startswith("docs/"):
            place = source.removeprefix("docs/")
        else:
            place = f"project/{source}"
            if (ROOT / source).is_dir():
                place += "/README.md" if (ROOT / source / "README.md").exists() else "/index.md"
                source = f"{source}/README.md" if place.endswith("README.md") else source
            outside[place] = ROOT / source
        here = posixpath.dirname(name if base == "docs" else f"project/{name}")
        return match["head"] + posixpath.relpath(place, here or ".") + match["tail"]

    return LINK.sub(link, text)


def _copy(source: Path, target: Path, name: str, outside: dict[str, Path]) -> None:
    if source.is_dir():
        names = sorted(path.name for path in source.iterdir() if path.is_file())
        _write(target, f"# {source.name}\n\n" + "".join(f"- [{n}]({n})\n" for n in names))
        for n in names:
            shutil.copy2(source / n, target.parent / n)
    elif source.suffix == ".md":
        page = name.removeprefix("project/")
        _write(target, relinked(source.read_text(encoding="utf-8"), page, outside, base=""))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def navigation(folder: Path) -> list[object]:
    """Return the table of contents: the home page, the sections, and pages at the top."""
    nav: list[object] = [{"Home": "index.md"}]
    for title, section in SECTIONS.items():
        pages = sorted(
            (folder / section).glob("*.md"), key=lambda path: (path.stem not in ("index", "README"), path.stem)
        )
        nav.append({title: [path.relative_to(folder).as_posix() for path in pages]})
    nav += [path.name for path in sorted(folder.glob("*.md")) if path.name != "index.md"]
    nav.append({"Project": [path.relative_to(folder).as_posix() for path in sorted((folder / "project").glob("*.md"))]})
    return nav


def configuration(folder: Path) -> str:
    """Return mkdocs.yml for the staged pages: the settings of the repository, with the table of contents."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    settings |= {"docs_dir": folder.name, "site_dir": "site", "nav": navigation(folder)}
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def main() -> None:
    """Write the pages and the settings of the site."""
    folder = BUILD / "docs"
    stage(folder)
    _write(BUILD / "mkdocs.yml", configuration(folder))


if __name__ == "__main__":
    main()
