"""A variant of a study has its own folder, and a link leads to the last one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from expunge.core.errors import ConfigError
from expunge.pipelines.study.run_note import link_latest, with_folder

BASE = {"name": "mine", "seeds": {"unlearn": [0]}, "paths": {"store": "s", "output_dir": None}}


def folder(words: Sequence[str], **changes: Any) -> str:
    tree = with_folder({**BASE, **changes}, words, lambda own: BASE)
    return str(tree["paths"]["output_dir"])


def test_only_changed_settings_make_a_variant() -> None:
    assert folder(["study=mine"]) == "saves/study/mine"
    assert folder(["study=mine", "launch.workers=2"], launch={"workers": 2}) == "saves/study/mine"
    assert folder(["study=mine", "seeds.unlearn=[0]"]) == "saves/study/mine"  # as in the file
    several = folder(["study=mine", "seeds.unlearn=[0,1]"], seeds={"unlearn": [0, 1]})
    audits = folder(["study=mine", "audits=[relearn]"], audits=["relearn"])
    assert len({"saves/study/mine", several, audits}) == 3
    assert several == folder(["seeds.unlearn=[0,1]", "study=mine"], seeds={"unlearn": [0, 1]})


def test_a_folder_of_the_user_stays() -> None:
    tree = {**BASE, "paths": {"output_dir": "out"}}
    assert with_folder(tree, ["study=mine", "seeds=1"], lambda own: BASE)["paths"]["output_dir"] == "out"


def test_a_study_that_needs_a_word_is_a_variant() -> None:
    def incomplete(own: Sequence[str]) -> Any:
        raise ConfigError("forget: missing")

    tree = with_folder(BASE, ["study=mine", "forget=a.csv"], incomplete)
    assert tree["paths"]["output_dir"].startswith("saves/study/mine-")


def test_the_link_leads_to_the_last_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine", "mine-1a2b3c4d"):
        place = Path("saves/study") / name
        place.mkdir(parents=True)
        link_latest(place, "mine")
        assert os.readlink("saves/study/mine-latest") == name
    other = tmp_path / "elsewhere"
    other.mkdir()
    link_latest(other, "mine")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "saves"]
