"""TOFU's own evaluation logs as retain logs of a whole job, and its other wordings of the questions."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy.stats import ks_2samp

from expunge.core.errors import DataError
from expunge.engine.job import in_order
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.load import save_model
from expunge.pipelines.study.job_handle import JobHandle, load_job

Run = Callable[..., tuple[int, str, str]]
N = 4  # rows of forget10 in the folder of TOFU's shape


def log_of(n: int, ratio: Callable[[int], float]) -> dict[str, object]:
    """A log in the form of TOFU's authors, whose row i has R = mean loss ratio e ** ratio(i)."""
    rows = range(n)
    group = {
        "avg_gt_loss": {str(i): 1.0 for i in rows},
        "avg_paraphrased_loss": {str(i): 2.0 + ratio(i) for i in rows},
        "average_perturb_loss": {str(i): [1.5, 2.0, 2.5] for i in rows},
        "rougeL_recall": {str(i): 0.5 for i in rows},
    }
    return {"eval_log_forget.json": group}


@pytest.fixture
def words(here: Path, tofu_source: Path) -> list[str]:
    texts = [json.loads(line)["question"] for line in (tofu_source / "full.json").read_text().splitlines()]
    tokenizer = train_tokenizer(texts, 300, max_length=256)
    save_model(build_llama("llama-64k", tokenizer, vocab_size=300, seed=0), tokenizer, here / "model")
    return [
        "benchmark=tofu", "model.model_args.pretrained_model_name_or_path=model", f"data.root={tofu_source}",
        "eval.metrics=[forget_quality,forget_truth_ratio]",
    ]  # fmt: skip


def test_a_log_of_tofus_authors_is_the_retain_log_of_a_job(here: Path, words: list[str], expunge: Run) -> None:
    Path("log.json").write_text(json.dumps(log_of(N, lambda i: 0.1 * i - 0.2)))
    code, _, errors = expunge("eval", *words, "task_name=a", "retain_logs_path=log.json")
    assert code == 0, errors
    summary = json.loads(Path("saves/eval/a/TOFU_SUMMARY.json").read_text())
    own = json.loads(Path("saves/eval/a/TOFU_EVAL.json").read_text())["forget_truth_ratio"]["value_by_index"]
    theirs = [math.exp(0.1 * i - 0.2) for i in range(N)]
    assert len(own) == N
    p = ks_2samp([row["score"] for row in own.values()], theirs).pvalue
    assert summary["forget_quality"] == pytest.approx(p, rel=1e-9) and 0 < p <= 1

    Path("log.json").write_text(json.dumps(log_of(N, lambda i: 50.0 + i)))  # another log is another job
    code, _, errors = expunge("eval", *words, "task_name=b", "retain_logs_path=log.json")
    assert code == 0, errors
    far = json.loads(Path("saves/eval/b/TOFU_SUMMARY.json").read_text())["forget_quality"]
    assert far == pytest.approx(2 / math.comb(2 * N, N))  # no overlap: the exact two-sided p of the largest distance


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (log_of(N + 1, lambda i: 0.0), f"has truth ratios of {N + 1} forget rows, this job's split has {N}"),
        ({"eval_log_forget.json": {}}, "no quantity 'avg_gt_loss' by row"),
    ],
)
def test_a_log_of_other_rows_is_refused_before_a_job(
    here: Path, words: list[str], expunge: Run, log: dict[str, object], message: str
) -> None:
    Path("log.json").write_text(json.dumps(log))
    code, _, err = expunge("eval", *words, "task_name=a", "retain_logs_path=log.json")
    assert code == 2 and message in err and not Path("saves/eval").exists()


def test_other_wordings_of_the_questions(here: Path, words: list[str], tofu_source: Path) -> None:
    folder = here / "tofu"
    shutil.copytree(tofu_source, folder)
    for name in ("forget10_perturbed", "retain_perturbed"):
        lines = [json.loads(line) for line in (folder / f"{name}.json").read_text().splitlines()]
        for line in lines:
            line["paraphrased_question"] = f"Say: {line['question']}"
        (folder / f"{name}.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [word for word in words if not word.startswith("data.root=")]

    def job(*more: str) -> JobHandle:
        return load_job("eval", [*words, f"data.root={folder}", "task_name=q", *more])

    def sets(handle: JobHandle) -> dict[str, list[str]]:
        assert handle.prepared.setting is not None
        return {name: [r.question for r in rows] for name, rows in handle.prepared.setting.benchmark.sets.items()}

    plain, other = job(), job("data.args.question_key=paraphrased_question")
    assert sets(job("eval.tofu.question_key=paraphrased_question")) == sets(other)
    for name, questions in sets(plain).items():
        requests = name in ("forget_eval", "retain_eval")
        assert sets(other)[name] == ([f"Say: {q}" for q in questions] if requests else questions), name
    keys = [{j.key for j in in_order(handle.prepared.ends) if j.kind == "score"} for handle in (plain, other)]
    assert keys[0] and not keys[0] & keys[1]
    with pytest.raises(DataError, match="forget_eval row 0: no paraphrased question"):
        load_job(
            "eval", [*words, f"data.root={tofu_source}", "task_name=q", "data.args.question_key=paraphrased_question"]
        )
