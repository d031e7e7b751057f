"""Every job kind is data: written to a job file and read by another process, it has the same key and fields."""

from __future__ import annotations

import csv
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from expunge.core.errors import DataError
from expunge.engine.job import Job, in_order, job_types
from expunge.engine.job_file import JobFile, plain
from expunge.engine.store import Store
from expunge.evaluation.kinds import RecordPart
from expunge.methods import registry
from expunge.methods.objective import objective
from expunge.methods.weight_edits import make_weight_edit, weight_edit_registry
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.load import save_model
from expunge.pipelines.audit_jobs.types import Nf4Job
from expunge.pipelines.erase.request import EraseRequest, prepare_erase
from expunge.pipelines.erase.trials import EraseTrial, SearchGoal, trial_job
from expunge.pipelines.study import context_source
from expunge.pipelines.study.config import decode_study
from expunge.pipelines.study.context_source import ContextSource, FileRef, RowsRef
from expunge.pipelines.study.graph import build_graph
from expunge.pipelines.study.handle import load_study
from expunge.pipelines.study.task_config import LmEval
from expunge.pipelines.study_jobs.job_values import EditRef, MethodRef, ModelInput, WrapperRef
from expunge.pipelines.study_jobs.measure_jobs import HarnessJob, JudgementsJob
from expunge.pipelines.study_jobs.model_jobs import FileAlternatesJob, StatisticsEditJob, WrapJob

METHODS = (
    "methods=[{trainer: NPO}, {trainer: AltPO}, {trainer: DPO}, {trainer: WHP}, {trainer: UNDO, of: [NPO]}, "
    "{trainer: SimNPO, args: {step: sam, lora: {r: 2}}}, {trainer: task_vector}, {trainer: noise, of: [NPO]}]"
)
WORDS = ("unlearn.evaluate.every=1", "unlearn.evaluate.panel=full", "eval.extras=[agreement,similarity]")
SINGLE_TYPES = {"TaskJob", "StoryFitJob"}  # bases of others


def folder_of_a_model(folder: Path, texts: Sequence[str]) -> str:
    tokenizer = train_tokenizer(list(texts), 300, max_length=128)
    save_model(build_llama("llama-64k", tokenizer, vocab_size=300, seed=0), tokenizer, folder)
    return str(folder)


def table(path: Path, rows: Sequence[tuple[str, str]]) -> str:
    with open(path, "w", encoding="utf-8", newline="") as f:
        csv.writer(f).writerows([("question", "answer"), *rows])
    return str(path)


def study_jobs(micro: list[str], folder: Path, texts: Sequence[str]) -> Iterator[Job]:
    """A study with all shapes of methods, evaluations on the way, requests and audits."""
    model = folder_of_a_model(folder / "embedder", texts)
    audits = "audits=[prompting, {name: relearn, rows: 4}, quantize, lens]"
    words = [*micro, METHODS, *WORDS, audits, f"eval.embedder={model}", f"paths.store={folder}/store"]
    yield from load_study(words).graph.jobs
    yield from load_study([*micro, "requests=2", "methods=[{trainer: GradDiff}]"]).graph.jobs
    yield from load_study([*micro, "eval.rows.part=report", *WORDS[:2], "methods=[{trainer: NPO}]"]).graph.jobs
    meta = ["meta={variations: [{num_train_epochs: 2}, {num_train_epochs: 3}]}", "methods=[{trainer: NPO}]"]
    yield from load_study([*micro, *meta]).graph.jobs


def stories_jobs() -> Iterator[Job]:
    settings = {"delete": "Twist", "generate": {"n": 90, "shards": 3}, "max_seq_len": 160}
    yield from build_graph(decode_study({"name": "s", "model": {"preset": "llama-64k"}, "stories": settings})).jobs


def erase_jobs(folder: Path, texts: Sequence[str]) -> Iterator[Job]:
    """The trials, the measurements and both kinds of controls of an erasure."""
    model = folder_of_a_model(folder / "model", texts)
    keep = [(f"Which river is number {i}?", f"It is the long river {i}.") for i in range(12)]
    forget = [(f"Who is number {i}?", f"It is Ann {i}.") for i in range(6)]
    files = {name: table(folder / f"{name}.csv", rows) for name, rows in (("forget", forget), ("keep", keep))}
    full = table(folder / "full.csv", [*forget, *keep])
    tree = {
        "name": "erase",
        "benchmark": "custom",
        "forget": files["forget"],
        "retain": files["keep"],
        "model": {"model_args": {"pretrained_model_name_or_path": model}},
    }
    study = decode_study(tree)
    for control in ({"retain_model": model}, {"base": model, "full_data": full}):
        run = prepare_erase(EraseRequest(study=study, out=folder / "out", **control))  # type: ignore[arg-type]
        assert run.control is not None
        yield run.control
        trial = trial_job(run, EraseTrial("GradDiff", 1e-3, 5), SearchGoal())
        yield from (trial, run.final.metrics("after", run.final.records("after", trial), None))


def other_jobs(source: ContextSource) -> Iterator[Job]:
    """Jobs that need an extra package, a file or a judge to be planned."""
    model = ModelInput(source.task.template_args, "float32", {"contents": "0"})
    yield Nf4Job(label="nf4", source=source, model=model, form="nf4")
    config = LmEval(tasks=("tiny",), limit=0.5)
    yield HarnessJob(
        label="tasks", source=source, asked={"tasks": ["tiny"]}, model=model, config=config,
        model_config=source.task.model,
    )  # fmt: skip
    rows = RowsRef("forget", source.load().benchmark.sets["forget"].fingerprint())
    wrapper = WrapperRef("in_context", {})
    edit = EditRef("LUNAR", {"modules": ("model.layers.0.mlp.down_proj",)})
    sides = {"forget": (rows,), "retain": (rows,)}
    yield StatisticsEditJob(label="s", source=source, edit=edit, rows=sides, refusals=("No.",), model=model)
    yield WrapJob(label="w", source=source, wrapper=wrapper, rows={"forget": (rows,)}, refusals=("No.",), model=model)
    yield FileAlternatesJob(label="a", source=source, rows=rows, file=FileRef("a.json", "0"), column="other")
    yield JudgementsJob(
        label="j", source=source, records="judgements", rows=rows, judge={"rules": "0"}, settings={"rules": {}},
        part=RecordPart("forget", "judgements"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def jobs(micro: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[Job]:
    folder = tmp_path_factory.mktemp("jobs")
    texts = [f"Who is number {i}? It is Ann {i}, by the long river." for i in range(9)]
    result = [*study_jobs(micro, folder, texts), *stories_jobs(), *erase_jobs(folder, texts)]
    result += other_jobs(ContextSource.of(decode_study({"name": "other"})))
    return in_order(result)


@pytest.mark.slow
def test_every_job_type_comes_back_with_its_key_and_its_fields(jobs: list[Job]) -> None:
    read = JobFile.of_text(JobFile.of(jobs).text)
    read.prepare()
    for job in jobs:
        back = read.job(job.key)
        assert type(back) is type(job)
        assert back.identity == job.identity and back.key == job.key
        for f in dataclasses.fields(job):
            if f.name not in ("parents", "estimate"):
                assert plain(getattr(back, f.name)) == plain(getattr(job, f.name)), (job.name, f.name)
    known = {name for name, cls in job_types().items() if cls.__module__.startswith("expunge.")}
    assert {type(job).__name__ for job in jobs} == known - SINGLE_TYPES


@pytest.mark.slow
def test_a_source_loads_the_rows_that_its_jobs_were_planned_with(jobs: list[Job]) -> None:
    """Each context is loaded from its source alone, and has the rows of each job."""
    read = JobFile.of_text(JobFile.of(jobs).text)
    context_source._LOADED.clear()
    checked = 0
    for job in jobs:
        back = read.job(job.key)
        refs = [value for f in dataclasses.fields(back) for value in _refs(getattr(back, f.name))]
        source = getattr(back, "source", None)
        if source is None or not refs:
            continue
        context = source.load()
        content = [*context.benchmark.sets.items(), *(context.watched.sets.items() if context.watched else ())]
        result = {(name, rows.fingerprint()) for name, rows in content}
        assert {(ref.name, ref.fingerprint) for ref in refs} <= result, back.name
        checked += len(refs)
    assert checked > 100


def _refs(value: Any) -> Iterator[RowsRef]:
    if isinstance(value, RowsRef):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _refs(one)
    elif isinstance(value, tuple):
        for one in value:
            yield from _refs(one)


def test_every_method_and_edit_is_data() -> None:
    for name in registry():
        loss = objective(name, {"module_regex": "model.layers.1"} if name == "RMU" else {})
        assert MethodRef.of(loss).identity == loss.identity, name
        assert MethodRef.of(loss).make() == loss, name
    for name in weight_edit_registry():
        args = {"beta": 0.1} if name == "noise" else {}
        edit = make_weight_edit(name, args)
        assert EditRef.of(edit).make() == edit, name


def test_rows_that_have_changed_are_an_error(tmp_path: Path) -> None:
    rows = [(f"Who is number {i}?", f"It is Ann {i}.") for i in range(6)]
    forget = table(tmp_path / "forget.csv", rows)
    keep = table(tmp_path / "keep.csv", [(f"Which river is number {i}?", f"It is river {i}.") for i in range(12)])
    model = folder_of_a_model(tmp_path / "model", [q + a for q, a in rows])
    words = ["benchmark=custom", f"forget={forget}", f"retain={keep}", "model=llama-64k", "study=quickstart"]
    words += ["methods=[{trainer: GradDiff}]", f"model.model_args.pretrained_model_name_or_path={model}"]
    graph = load_study(words).graph
    (job,) = (leaf.model for leaf in graph.leaves if leaf.role == "unlearn")
    assert job is not None
    text = JobFile.of([job]).text
    table(tmp_path / "forget.csv", [*rows[:-1], ("Who is number 5?", "It is Bob.")])
    again = JobFile.of_text(text).job(job.key)
    with pytest.raises(DataError, match=r"the rows of forget have changed since this job was planned; plan again"):
        again.run({}, tmp_path / "out", None)  # type: ignore[arg-type]


def test_a_file_that_has_changed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "log.json").write_text("{}")
    ref = FileRef.of(tmp_path / "log.json")
    assert ref.checked() == tmp_path / "log.json"
    (tmp_path / "log.json").write_text("{ }")
    with pytest.raises(DataError, match=r"log\.json: has changed since this job was planned"):
        ref.checked()


@pytest.mark.slow
def test_a_task_of_a_study_needs_neither_hydra_nor_the_command_line(micro: list[str], tmp_path: Path) -> None:
    handle = load_study([*micro, "methods=[]", f"paths.store={tmp_path}/store"])
    base = next(job for job in in_order(handle.graph.jobs) if job.kind == "base")
    path = tmp_path / "stage.json"
    JobFile.of([base], tasks=[[base.key]], store=str(tmp_path / "store")).write(path)
    code = (
        "import sys; from pathlib import Path; from expunge.engine.worker import run_task\n"
        f"code = run_task(Path({str(path)!r}), 0)\n"
        "names = ('hydra', 'omegaconf', 'expunge.cli', 'expunge.pipelines.study.graph')\n"
        "loaded = [m for m in names if m in sys.modules]\n"
        "sys.exit(f'loaded {loaded}' if loaded else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Store(tmp_path / "store").done(base)
    assert json.loads((Store(tmp_path / "store").path(base) / "job.json").read_text())["key"] == base.key
