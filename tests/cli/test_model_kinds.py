"""Each kind of model is read by every command, or refused by each in one line that names the way out."""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest

from expunge.models.config import ADAPTER

Run = Callable[..., tuple[int, str, str]]
ROWS = [(f"Where does person {i} live?", f"Person {i} lives in town {i}.") for i in range(6)]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
COMMANDS = (
    "plan eval model={} benchmark=custom forget=rows.csv task_name=x",
    "plan unlearn model={} benchmark=custom forget=rows.csv trainer=GradAscent task_name=x",
    "plan study=custom forget=rows.csv model={}",
    "audit {} --forget rows.csv --dry-run",
    "inspect template --model {}",
    "inspect lens --model {} benchmark=custom forget=rows.csv --out lens",
    "passport {}",
    "memory {}",
    "judge texts.jsonl --model judge.yaml",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same small model: plain, in shards, without its tokenizer, with a helper model, and in a cache of the hub."""
    from expunge import wrap
    from expunge.models.build import build_llama, train_tokenizer
    from expunge.models.load import save_model

    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer([text for row in ROWS for text in row], 400, max_length=128)
    model = build_llama("llama-64k", tokenizer, vocab_size=400, seed=0)
    save_model(model, tokenizer, folder / "plain")
    model.save_pretrained(folder / "shards", max_shard_size="30KB")
    tokenizer.save_pretrained(folder / "shards")
    model.save_pretrained(folder / "bare")
    helped = wrap(model, "logit_difference", tokenizer=tokenizer, forget=_examples(), helper=model)
    save_model(helped, tokenizer, folder / "helped")
    shutil.copytree(folder / "plain", folder / "ä b=c#d,e[0]")
    (folder / "link").symlink_to("plain")
    (folder / "lost").mkdir()
    (folder / "lost" / ADAPTER).write_text(json.dumps({"base_model_name_or_path": "./nowhere"}))
    (folder / "lost" / "adapter_model.safetensors").touch()
    shutil.copytree(folder / "lost", folder / "on_helped")
    (folder / "on_helped" / ADAPTER).write_text(json.dumps({"base_model_name_or_path": "../helped"}))
    for name, source in (("plain", "plain"), ("helped", "helped"), ("adapter", "lost")):
        place = folder / "hub" / f"models--org--{name}"
        shutil.copytree(folder / source, place / "snapshots" / COMMIT)
        (place / "refs").mkdir()
        (place / "refs" / "main").write_text(COMMIT)
    return folder


def _examples() -> list[dict[str, str]]:
    return [{"question": question, "answer": answer} for question, answer in ROWS]


@pytest.fixture
def rows(here: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with rows and texts, next to a cache of the hub."""
    from expunge.models import identity

    with (here / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("question", "answer"), *ROWS])
    (here / "texts.jsonl").write_text('{"generation": "a town"}\n')
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(models / "hub"))
    identity.pinned_revision.cache_clear()
    identity.small_files.cache_clear()
    return here


def call(expunge: Run, words: str, model: str) -> tuple[int, str, str]:
    Path("judge.yaml").write_text(json.dumps({"question": "Is it a town?", "model": model}))
    return expunge(*(word.format(model) for word in words.split()))


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize("kind", ["shards", "helped", "ä b=c#d,e[0]", "link", "plain/", "org/plain"])
def test_a_kind_of_model_is_read_by_each_command(
    rows: Path, models: Path, expunge: Run, kind: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kind.startswith("org/"):
        kind = os.path.relpath(models / kind.rstrip("/")) + kind[len(kind.rstrip("/")) :]
    monkeypatch.setenv("HF_HUB_CACHE", str(models / "hub"))
    code, out, errors = call(expunge, words, kind)
    assert code == 0, errors
    assert out


@pytest.mark.parametrize("words", COMMANDS)
@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("org/adapter", "org/adapter contains an adapter; download it as a folder (hf download org/adapter"),
        ("org/helped", "org/helped contains a wrapper; download it as a folder (hf download org/helped"),
        ("lost", "is ./nowhere, which does not exist; write the folder or hub id of its base model there"),
        ("on_helped", "which has a wrapper; an adapter needs a base model without one"),
        ("bare", "contains no tokenizer (tokenizer.json or tokenizer.model)"),
    ],
)
def test_a_kind_of_model_is_refused_by_each_command_in_the_same_words(
    rows: Path, models: Path, expunge: Run, kind: str, part: str, words: str
) -> None:
    no_weights = words.startswith(("memory", "inspect template"))
    if no_weights and kind in ("org/adapter", "org/helped", "bare"):
        pytest.skip("this command reads the configuration or the tokenizer alone")
    code, _, errors = call(expunge, words, kind if kind.startswith("org/") else str(models / kind))
    assert code == 2
    last = [line for line in errors.splitlines() if line.startswith("expunge: error: ")]
    assert len(last) == 1 and part in last[0], errors


def test_a_judge_of_a_plan_names_a_folder_that_exists(rows: Path, models: Path, expunge: Run) -> None:
    words = f"plan eval model={models}/plain benchmark=custom forget=rows.csv task_name=x eval.metrics=[judgement]"
    for model, part in (("./nope", "no folder ./nope"), (f"{models}/bare", "contains no tokenizer")):
        code, _, errors = expunge(*words.split(), f"eval.judge={{model: {{model: {model}, question: Well?}}}}")
        assert code == 2
        assert errors.startswith("expunge: error: eval.judge.model.model: ") and part in errors


@pytest.mark.parametrize(
    ("kind", "part"), [("lost", "contains only an adapter; merge it"), ("bare", "contains no tokenizer")]
)
def test_an_embedder_that_cannot_be_read_is_refused_by_the_plan(
    rows: Path, models: Path, expunge: Run, kind: str, part: str
) -> None:
    folder = models / kind
    if kind == "lost":  # its base model exists, so it is a model, but no embedder
        folder = shutil.copytree(folder, rows / "adapter")
        (folder / ADAPTER).write_text(json.dumps({"base_model_name_or_path": str(models / "plain")}))
    words = f"plan eval model={models}/plain benchmark=custom forget=rows.csv task_name=x eval.extras=[similarity]"
    code, _, errors = expunge(*words.split(), f"eval.embedder={folder}")
    assert code == 2
    assert errors.startswith("expunge: error: eval.embedder: ") and part in errors


def test_controls_without_a_tokenizer_are_read_with_the_named_one(rows: Path, models: Path, expunge: Run) -> None:
    bare = f"{models}/bare"
    words = f"audit {bare} --forget rows.csv --dry-run --base {bare} --retain-model"
    named = f"model.tokenizer_args.pretrained_model_name_or_path={models}/plain"
    code, _, errors = expunge(*words.split(), bare, named)
    assert code == 0, errors
    code, _, errors = expunge(*words.split(), bare)
    assert code == 2 and "contains no tokenizer" in errors


def test_an_output_folder_has_the_helper_of_a_wrapped_model(models: Path, tmp_path: Path) -> None:
    """The folders of `erase` and `semeval`, and an upload, contain the subfolders that the model is read from."""
    from expunge.models.config import ModelArgs
    from expunge.models.folder_files import model_files, whole_model
    from expunge.models.load import load_model, pick_device
    from expunge.pipelines.submission_folder import SubmissionFolder

    source = shutil.copytree(models / "helped", tmp_path / "helped")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    (source / "evals").mkdir()
    (source / "evals" / "rows.json").write_text("{}")
    inside = {"helper/model.safetensors", "helper/config.json", "additional_chat_templates/tools.jinja"}
    names = {file.relative_to(source).as_posix() for file in whole_model(source)}
    assert inside <= names and inside <= set(model_files(source)) and "evals/rows.json" not in names
    output = SubmissionFolder(tmp_path / "out")
    assert output.start_with(str(source))
    output.fill(lambda part: shutil.copytree(source, part, dirs_exist_ok=True), {})
    assert inside <= {file.relative_to(output.folder).as_posix() for file in whole_model(output.folder)}
    assert load_model(str(output.folder), ModelArgs(), device=pick_device("cpu")).helper is not None


def test_the_hash_of_an_adapter_includes_its_base_model(models: Path, tmp_path: Path) -> None:
    from expunge.models.identity import contents_hash, source_identity

    base = shutil.copytree(models / "plain", tmp_path / "base")
    adapter = shutil.copytree(models / "lost", tmp_path / "adapter")
    (adapter / ADAPTER).write_text(json.dumps({"base_model_name_or_path": str(base)}))
    before = contents_hash(source_identity(str(adapter), None))
    (base / "tokenizer_config.json").write_text("{}")
    assert before and contents_hash(source_identity(str(adapter), None)) != before
    assert contents_hash(source_identity(str(base), None)) == source_identity(str(base), None)["contents"]


def test_the_parameters_of_a_folder_exclude_those_of_its_wrapper(models: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from expunge.pipelines.study_jobs.estimate import weights_in

    folder = shutil.copytree(models / "helped", tmp_path / "helped")
    save_file({"direction": torch.ones(5)}, folder / "wrapper_state.safetensors")
    assert weights_in(str(folder), "model") == weights_in(str(models / "plain"), "model")


def test_a_path_is_a_name_of_a_tokenizer_everywhere(rows: Path, models: Path) -> None:
    from expunge import evaluate, wrap
    from expunge.core.errors import ConfigError

    wrapped = wrap(models / "plain", "token_filter", tokenizer=models / "plain", forget=_examples())
    assert evaluate(wrapped, models / "plain", forget=_examples(), metrics=["forget_Q_A_Prob"])
    for where, tokenizer in (("tokenizer", models / "bare"), ("tokenizer", models / "lost")):
        with pytest.raises(ConfigError, match=f"^{where}: .*(contains no tokenizer|contains only an adapter)"):
            wrap(models / "plain", "token_filter", tokenizer=tokenizer, forget=_examples())
    with pytest.raises(ConfigError, match="nope: cannot be loaded: there is no such folder, and "):
        evaluate(Path("nope"), forget=_examples())


def test_a_submission_of_a_wrapped_model_loads_with_its_helper(rows: Path, models: Path, expunge: Run) -> None:
    for side in ("forget", "retain"):
        (rows / side).mkdir()
        lines = [
            {"id": f"{side}-{task}{kind}", "task": task, "input": f"{side} {task} {kind}", "output": f"gold {task}"}
            for task in ("Task1", "Task2", "Task3")
            for kind in ("sc1", "qa0")
        ]
        (rows / side / f"{side}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = f"semeval --model {models}/helped --forget forget --retain retain --out out experiment=semeval/ga"
    code, _, errors = expunge(*words.split(), "trainer.args.max_steps=1", "trainer.args.optim=sgd")
    assert code == 0, errors
    code, _, errors = expunge("passport", "out")
    assert code == 0, errors


def test_an_erasure_with_an_adapter_is_another_one_without_it(rows: Path, models: Path) -> None:
    """Neither continues in the other's folder, and the card has another hash of the model before."""
    import torch
    from safetensors.torch import save_file

    from expunge.cli.commands.erase import add_erase, request_of
    from expunge.pipelines.erase.findings import before_hash
    from expunge.pipelines.erase.request import prepare_erase

    folder = shutil.copytree(models / "plain", rows / "both")
    (folder / ADAPTER).write_text(json.dumps({"base_model_name_or_path": "./nowhere", "peft_type": "LORA"}))
    save_file({"weight": torch.zeros(1)}, folder / "adapter_model.safetensors")
    words = ("erase", "--model", str(folder), "--forget", "rows.csv", "--out", "out")
    parser = argparse.ArgumentParser()
    add_erase(parser.add_subparsers())
    uses = [f"model.model_args.adapter={use}" for use in ("apply", "ignore")]
    requests = [request_of(parser.parse_args([*words, use])) for use in uses]
    assert len({prepare_erase(request).mark for request in requests}) == 2
    assert len({before_hash(request) for request in requests}) == 2
