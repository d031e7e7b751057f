"""Folders of the package are small enough to read, and each place that ARCHITECTURE.md names is there."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "src" / "expunge"
ROOT = PACKAGE.parent.parent
MOST_LINES, MOST_LEVELS = 5000, 5
REMOVED = "## What was removed"


def test_no_folder_has_too_many_lines_or_levels() -> None:
    files = list(PACKAGE.rglob("*.py"))
    lines: Counter[Path] = Counter()
    for file in files:
        lines[file.parent] += len(file.read_text(encoding="utf-8").splitlines())
    large = {str(folder.relative_to(PACKAGE)): n for folder, n in lines.items() if n > MOST_LINES}
    assert not large, f"split these folders: {large}"
    assert max(len(file.relative_to(PACKAGE).parts) for file in files) <= MOST_LEVELS


def is_there(name: str) -> bool:
    """Whether a path or a dotted name in backticks is a file, a folder, or a name in a module; others are no places."""
    room = re.split("[./]", name)[0]
    if "/" in name:
        return ((PACKAGE if (PACKAGE / room).is_dir() else ROOT) / name).exists()
    if "." not in name or not room or not (PACKAGE / room).is_dir():
        return True
    *parts, last = name.split(".")
    place = PACKAGE.joinpath(*parts)
    if (place / last).is_dir() or (place / f"{last}.py").is_file():
        return True
    module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    return module.is_file() and last in module.read_text(encoding="utf-8")


def test_each_place_of_the_architecture_is_there() -> None:
    before, _, rest = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").partition(REMOVED)
    names = set(re.findall(r"`([\w./]+)`", before + rest.partition("## Measured")[2]))
    assert len(names) > 100
    assert not is_there("engine.claims") and not is_there("cli/api.py")
    assert sorted(name for name in names if not is_there(name)) == []
