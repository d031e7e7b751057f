"""Every page of results has its commands in the table of docs/results/README.md, which `make results` lists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

import expunge

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
CONF = Path(expunge.__file__).parent / "conf" / "study"
ROW = re.compile(r"\| \[(?P<page>\w+\.md)\]\((?P=page)\) \| [^|]+ \| `(?P<command>[^`|]+)` \| (?P<hours>[^|]+) \|")


def rows() -> list[re.Match[str]]:
    lines = (RESULTS / "README.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("| [")]
    matches = [match for line in table if (match := ROW.fullmatch(line))]
    assert len(matches) == len(table) > 0
    return matches


def test_each_page_is_in_the_table_and_each_row_has_a_page() -> None:
    pages = {page.name for page in RESULTS.glob("*.md")} - {"README.md"}
    assert {row["page"] for row in rows()} == pages


def test_each_command_names_a_study_or_script_that_exists_and_its_page_names_it() -> None:
    for row in rows():
        program, second, third = (row["command"] + " x").split()[:3]
        page = (RESULTS / row["page"]).read_text()
        if program == "expunge":
            assert second == "run" and (CONF / f"{third.removeprefix('study=')}.yaml").is_file(), row["command"]
            assert third in page, row["command"]
        else:
            assert program == "python" and (ROOT / second).is_file(), row["command"]
            assert second in page, row["command"]
        assert row["hours"] == "not recorded" or 0 < float(row["hours"]) < 100


@pytest.mark.skipif(shutil.which("make") is None or shutil.which("awk") is None, reason="needs make and awk")
def test_make_lists_every_command_with_its_hours() -> None:
    done = subprocess.run(["make", "-s", "results"], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(rows())
    for line, row in zip(lines, rows(), strict=True):
        page, rest = line.split(maxsplit=1)
        hours = row["hours"] if row["hours"] == "not recorded" else f"{row['hours']} h"
        assert page == row["page"] and rest.startswith(hours) and rest.endswith(row["command"])
