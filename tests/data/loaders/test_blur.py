"""BLUR's files by task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expunge.core.errors import DataError
from expunge.data.loaders.blur import load_blur


def write_blur(folder: Path, *stems: str) -> Path:
    """Files of one column, text, as published."""
    for stem in stems:
        (folder / f"{stem}.json").write_text(json.dumps([{"text": f"{stem} {i}?"} for i in range(2)]))
    return folder


def test_the_files_of_a_task(tmp_path: Path) -> None:
    folder = write_blur(tmp_path, "rwku_forget", "rwku_retain", "rwku_paired_forget_retain", "rwku_D_hi", "whp_forget")
    sets, absent = load_blur(str(folder), "rwku", max_length=32)
    assert list(sets) == ["forget", "retain", "combined", "relearn_hi"]
    assert absent == ("relearn_mid", "relearn_lo")
    assert (sets["combined"].form, sets["combined"][0].answer) == ("text", "rwku_paired_forget_retain 0?")


def test_the_combined_questions_are_needed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no tofu_paired_forget_retain\.json"):
        load_blur(str(write_blur(tmp_path, "D_lo_for_all")), "tofu", max_length=32)
