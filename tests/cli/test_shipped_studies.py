"""Every study that ships decodes; the procedural ones share what they can."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

import expunge
from expunge.cli.compose import study_tree
from expunge.engine.job import in_order
from expunge.pipelines.study.config import decode_study
from expunge.pipelines.study.graph import build_graph

STUDIES = sorted(p.stem for p in (Path(expunge.__file__).parent / "conf" / "study").glob("*.yaml"))
GIVEN = {  # what a study cannot know
    "custom": ["forget=rows.csv", "model=gpt2"],
    "semeval_tiny": ["data.args.mmlu=mmlu"],
    "stories_real": ["stories.source=stories"],
}


@pytest.mark.parametrize("name", STUDIES)
def test_it_decodes(name: str) -> None:
    assert decode_study(study_tree([f"study={name}", *GIVEN.get(name, [])])).name


@pytest.mark.parametrize("name", ["pcfg_tiny", "pcfg_finetune", "tracr_tiny"])
def test_a_capability_is_brought_back_in_the_model_and_both_controls(name: str) -> None:
    found = jobs(name)
    assert {"relearn full same_rows", "relearn retain same_rows"} < set(found)
    if name == "pcfg_finetune":  # it goes on from the models of the other study
        assert all(found[job] == jobs("pcfg_tiny")[job] for job in ("train full", "train retain"))


@functools.cache
def jobs(name: str) -> dict[str, str]:
    """The keys of a smaller study's jobs."""
    tree = study_tree([f"study={name}", "data.args.train_rows=1400", "data.args.eval_rows=5"])
    return {job.name: job.key for job in in_order(build_graph(decode_study(tree)).jobs)}
