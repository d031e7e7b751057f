"""MUSE in jobs: pieces to train on, limits of generations, and a whole study."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import expunge
from expunge.benchmarks import Limits
from expunge.engine.job import in_order
from expunge.evaluation.config import Generation
from expunge.pipelines.study.config import decode_study
from expunge.pipelines.study.graph import build_graph
from expunge.pipelines.study_jobs.measuring import limited


def tree(root: Path, **changes: Any) -> dict[str, Any]:
    few = {"max_steps": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}
    return {
        "name": "muse",
        "benchmark": "muse",
        "data": {"root": str(root), "args": {"max_length": 40}},
        "model": {"preset": "llama-64k"},
        "train": few,
        "unlearn": few,
        "methods": [
            {"trainer": "GradAscent"},
            {"trainer": "NPO", "method_args": {"retain_loss_type": "KL"}, "label": "NPO"},
        ],
    } | changes


def test_a_set_limits_generation_and_never_lengthens_it() -> None:
    assert limited(Generation(max_new_tokens=200), Limits(32)).max_new_tokens == 32
    assert limited(Generation(max_new_tokens=8), Limits(32)).max_new_tokens == 8
    assert limited(Generation(max_new_tokens=200), None).max_new_tokens == 200
    assert limited(Generation(stop=("END",)), Limits(32, ("\n\n",))).stop == ("END", "\n\n")


def test_the_estimate_counts_pieces(muse_folder: Path) -> None:
    def tokens(max_length: int) -> int:
        graph = build_graph(
            decode_study(
                tree(
                    muse_folder,
                    data={"root": str(muse_folder), "args": {"max_length": max_length}},
                    train={"num_train_epochs": 1, "anchor": "retain"},
                )
            )
        )
        return next(job.estimate.tokens for job in in_order(graph.jobs) if job.name == "train full")

    # an epoch reads every text once, however it is cut
    assert tokens(40) == pytest.approx(tokens(80), rel=0.05)


@pytest.mark.slow
def test_a_study_of_muse(muse_folder: Path, tmp_path: Path) -> None:
    study = tmp_path / "muse.yaml"
    study.write_text(json.dumps(tree(muse_folder)))
    words = [f"study={study}", f"paths.store={tmp_path / 'store'}", f"paths.output_dir={tmp_path / 'out'}"]
    result = expunge.load_study(words).run()
    assert not result.failures
    rows = {row["run"]: row for row in result.table()}
    assert list(rows) == ["full", "retain", "GradAscent", "NPO"]
    assert math.isnan(rows["retain"]["privleak"])  # it is what the others are held against
    assert all(math.isfinite(rows[name]["privleak"]) for name in ("full", "GradAscent", "NPO"))
    assert all(0 <= row["mia_min_k"] <= 1 and 0 <= row["extraction_strength"] <= 1 for row in rows.values())
    (folder,) = (tmp_path / "store" / "records").glob("full-*")
    product = {n: pq.read_table(folder / f"{n}.texts.parquet") for n in ("forget_knowmem", "forget_verbmem")}
    assert max(product["forget_knowmem"]["n_new_tokens"].to_pylist()) <= 32
    assert 32 < max(product["forget_verbmem"]["n_new_tokens"].to_pylist()) <= 128
    scored = pq.read_table(folder / "privleak_forget.tokens.parquet")
    assert not any(scored["is_eos"].to_pylist()) and scored["position"].to_pylist().count(0) == 4
    assert "Privacy leakage" in (tmp_path / "out" / "results.md").read_text()
    assert "Where did Anna 0 go?" in (tmp_path / "out" / "report.html").read_text()
