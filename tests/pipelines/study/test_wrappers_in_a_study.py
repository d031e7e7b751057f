"""Wrapped models in a study: scored, audited and reported, with keys and folders of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import expunge
from expunge.core.errors import ConfigError
from expunge.engine.job import in_order
from expunge.models.config import ModelArgs, TokenizerArgs
from expunge.models.load import load_model, load_tokenizer
from expunge.models.wrapped import WrappedModel
from expunge.pipelines.study.config import decode_study
from expunge.pipelines.study.graph import build_graph
from expunge.pipelines.study.handle import StudyResult, load_study

METHODS = "methods=[{trainer: token_filter}, {trainer: logit_difference}, {trainer: divergence_decoding}]"
AUDITS = "audits=[{name: quantize, forms: [int8]}, lens]"
QUESTION = [{"question": "Who is Ann?", "answer": "A spy."}]


@pytest.fixture(scope="module")
def done(micro: list[str], tmp_path_factory: pytest.TempPathFactory) -> StudyResult:
    """A micro study of two wrappers and two audits."""
    folder = tmp_path_factory.mktemp("wrapped")
    paths = [f"paths.store={folder}/store", f"paths.output_dir={folder}/out"]
    return load_study([*micro, *paths, METHODS, AUDITS]).run()


def folder_of(done: StudyResult, name: str) -> Path:
    return next((done.folder.parent / "store" / "wrap").glob(f"{name}-*"))


@pytest.mark.slow
def test_wrappers_are_reported_and_audited(done: StudyResult) -> None:
    assert not done.failures
    report = {(a.label, a.audit): a for a in done.report.audits}
    assert {label for label, _ in report} == {"token_filter", "logit_difference", "divergence_decoding"}
    text = (done.folder / "results.md").read_text()
    assert "| token_filter |" in text
    assert "token_filter: a wrapper around unchanged weights" in text
    # rounding keeps the filter, whose forbidden tokens lose 20 nats
    assert report["token_filter", "quantize"].value < 0.1 * report["token_filter", "quantize"].full


@pytest.mark.slow
def test_audits_of_states_read_the_weights_without_the_wrapper(done: StudyResult) -> None:
    """The weights under the wrapper are the full model's, so each layer gives exactly the full model's number."""
    for finding in (a for a in done.report.audits if a.audit == "lens"):
        assert [v for _, v in finding.layers["model"]] == pytest.approx([v for _, v in finding.layers["full"]])
    assert "read a wrapped model without its wrapper" in (done.folder / "results.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_folder_of_the_job_is_the_wrapped_model_in_each_dtype(done: StudyResult, dtype: str) -> None:
    folder = folder_of(done, "logit_difference")
    reloaded_model = load_model(str(folder), ModelArgs(dtype=dtype), device=torch.device("cpu"))  # type: ignore[arg-type]
    assert (
        isinstance(reloaded_model, WrappedModel)
        and reloaded_model.dtype is getattr(torch, dtype)
        and reloaded_model.helper is not None
    )
    ids = torch.tensor([[5, 9, 17]])
    with torch.no_grad():
        expected = 2 * reloaded_model.inner(ids).logits - reloaded_model.helper(ids).logits
        torch.testing.assert_close(reloaded_model(ids).logits, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.slow
def test_the_helpers_of_divergence_decoding_know_one_side_each(done: StudyResult) -> None:
    """The helper of the forget rows is trained on these alone, that of the retain rows on those alone."""
    reloaded_model = load_model(
        str(folder_of(done, "divergence_decoding")), ModelArgs(dtype="float32"), device=torch.device("cpu")
    )
    assert isinstance(reloaded_model, WrappedModel)
    ids = torch.tensor([[5, 9, 17]])
    with torch.no_grad():
        forget, retain = (one(ids).logits for one in reloaded_model.helper)
        torch.testing.assert_close(reloaded_model(ids).logits, reloaded_model.inner(ids).logits + retain - forget)
    assert not torch.equal(forget, retain)
    world = {"authors": 6, "questions_per_author": 3, "forget_fraction": 0.34, "facts": 4, "holdout_authors": 0}
    methods = [{"trainer": "divergence_decoding"}]
    tree = {"name": "t", "data": {"world": world}, "model": {"preset": "llama-64k"}, "methods": methods}
    jobs = {job.name: job for job in in_order(build_graph(decode_study(tree)).jobs)}
    helpers = [jobs[f"train divergence_decoding-{side}-helper"] for side in ("forget", "retain")]
    assert [h.rows["retain"][0].name for h in helpers] == ["forget", "retain"]
    assert all(h.parents == jobs["train full"].parents for h in helpers)


@pytest.mark.slow
def test_a_single_job_evaluates_the_folder_with_its_wrapper(done: StudyResult, micro: list[str]) -> None:
    world = [word for word in micro if word.startswith(("data.", "eval."))]
    place = done.folder.parent
    words = ["benchmark=world", f"model={folder_of(done, 'token_filter')}", "task_name=again", *world]
    again = expunge.load_job("eval", [*words, f"paths.store={place}/store", f"paths.output_dir={place}/again"]).run()
    report = next(run for run in done.report.runs if run.label == "token_filter").results
    for name in ("forget_Q_A_Prob", "retain_Q_A_Prob"):
        assert again.summary[name] == pytest.approx(report[name].value, rel=1e-6)


@pytest.mark.slow
def test_inspect_reads_a_wrapped_model_without_its_wrapper(done: StudyResult) -> None:
    folder = str(folder_of(done, "token_filter"))
    reloaded_model = load_model(folder, ModelArgs(dtype="float32"), device=torch.device("cpu"))
    tokenizer = load_tokenizer(folder, TokenizerArgs())
    tables = [
        expunge.inspect(one, tokenizer, ["drift", "lens"], forget=QUESTION, reference=reloaded_model.inner).to_pandas()
        for one in (reloaded_model, reloaded_model.inner)
    ]
    assert tables[0].equals(tables[1])


def test_every_setting_counts_in_the_key_and_the_base_does_not_change() -> None:
    def jobs(penalty: float) -> dict[str, str]:
        method = {"trainer": "token_filter", "label": "x", "method_args": {"penalty": penalty}}
        world = {"authors": 6, "questions_per_author": 3, "forget_fraction": 0.34, "facts": 4, "holdout_authors": 0}
        tree = {"name": "t", "data": {"world": world}, "model": {"preset": "llama-64k"}, "methods": [method]}
        return {job.name: job.key for job in in_order(build_graph(decode_study(tree)).jobs)}

    one, other = jobs(20), jobs(10)
    assert one["wrap x"] != other["wrap x"] and one["train full"] == other["train full"]


@pytest.mark.slow
def test_a_wrapped_folder_is_not_wrapped_again(done: StudyResult, wmdp_folder: Path) -> None:
    folder = folder_of(done, "token_filter")
    tree = {
        "name": "twice",
        "benchmark": "wmdp",
        "data": {"root": str(wmdp_folder), "args": {"mmlu": str(wmdp_folder / "mmlu"), "max_length": 48}},
        "model": {"model_args": {"pretrained_model_name_or_path": str(folder)}},
        "methods": [{"trainer": "token_filter"}],
    }
    with pytest.raises(ConfigError, match=r"pretrained_model_name_or_path: .* has a wrapper, and a model has one at"):
        build_graph(decode_study(tree))
