"""No folder of the package is too large to read: at most 5,000 lines of code in it, and five levels of folders."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "src" / "expunge"
MOST_LINES, MOST_LEVELS = 5000, 5


def test_no_folder_has_too_many_lines_or_levels() -> None:
    files = list(PACKAGE.rglob("*.py"))
    lines: Counter[Path] = Counter()
    for file in files:
        lines[file.parent] += len(file.read_text(encoding="utf-8").splitlines())
    large = {str(folder.relative_to(PACKAGE)): n for folder, n in lines.items() if n > MOST_LINES}
    assert not large, f"split these folders: {large}"
    assert max(len(file.relative_to(PACKAGE).parts) for file in files) <= MOST_LEVELS
