"""The text of the template is part of a job's key for folders and hub ids, and a run shows one example."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from expunge.cli.main import main
from expunge.core.errors import ConfigError
from expunge.data.encoder import Encoder
from expunge.engine.job import in_order
from expunge.engine.store import Store
from expunge.engine.verify import verify_store
from expunge.models import identity
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.load import load_tokenizer, save_model
from expunge.pipelines.study import task_context
from expunge.pipelines.study.job_handle import load_job

DATED = (
    "{% for m in messages %}<{{ m.role }}> {{ strftime_now('%d %b %Y') }} {{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {{ strftime_now('%d %b %Y') }} {% endif %}"
)
HUB = "someone/some-model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("chat") / "model"
    tokenizer = train_tokenizer(["<user> 10 Apr 2025 Who wrote it? Ana did."], 300, max_length=128)
    tokenizer.chat_template = DATED
    save_model(build_llama("llama-64k", tokenizer, vocab_size=300, seed=0), tokenizer, place)
    return place


@pytest.fixture
def rows(tmp_path: Path) -> str:
    file = tmp_path / "rows.csv"
    file.write_text("question,answer\n" + "".join(f"Who wrote book {i}?,Ana {i}\n" for i in range(3)))
    return f"forget={file}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, Any]:
    """A hub of one tokenizer, whose template a test may change; None: out of reach."""
    state: dict[str, Any] = {"template": DATED}

    def load(source: str, args: Any) -> Any:
        if source != HUB:
            return load_tokenizer(source, args)
        if state["template"] is None:
            raise ConfigError(f"tokenizer {source}: cannot be loaded")
        tokenizer = load_tokenizer(str(folder), args)
        tokenizer.chat_template = state["template"]
        return tokenizer

    monkeypatch.setattr(task_context, "load_tokenizer", load)
    return state


def jobs_of(source: str, rows: str, tmp_path: Path, *more: str) -> Any:
    words = ["benchmark=custom", rows, f"model.model_args.pretrained_model_name_or_path={source}", "task_name=t"]
    paths = [f"paths.store={tmp_path}/store", f"paths.output_dir={tmp_path}/out"]
    return load_job("eval", [*words, *paths, *more])


def keys(source: str, rows: str, tmp_path: Path, *more: str) -> set[str]:
    prepared = jobs_of(source, rows, tmp_path, *more).prepared
    return {job.key for job in in_order(prepared.ends) if job.kind == "score"}


def test_all_that_determines_token_ids_is_in_the_key(
    folder: Path, rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows, the tokenizer's files, the template, and the code: our revision and the releases of two libraries."""
    source = tmp_path / "model"
    shutil.copytree(folder, source)
    records = [keys(str(source), rows, tmp_path)]

    def changed() -> bool:
        records.append(keys(str(source), rows, tmp_path))
        return not any(records[-1] & earlier for earlier in records[:-1])

    real = metadata.version
    versions: dict[str, str] = {}
    monkeypatch.setattr(identity.metadata, "version", lambda name: versions.get(name) or real(name))
    for name in ("tokenizers", "transformers"):
        release, _, patch = real(name).rpartition(".")
        for versions[name], counts in ((f"{release}.{patch}9", False), (f"{release}9.0", True)):
            identity.tokenisation_identity.cache_clear()
            assert (keys(str(source), rows, tmp_path) not in records) == counts, versions
        assert changed()
    monkeypatch.setattr(identity, "TOKENISATION", 99)
    identity.tokenisation_identity.cache_clear()
    assert changed()
    file = source / "tokenizer.json"
    file.write_text(file.read_text() + " ")
    assert changed()
    template = source / "chat_template.jinja"
    template.write_text(template.read_text().replace("<{{", "<<{{"))
    assert changed()
    csv = Path(rows.removeprefix("forget="))
    csv.write_text(csv.read_text().replace("Ana 1", "Ana 7"))
    assert keys(str(source), rows, tmp_path) not in records  # the jobs of other rows stay
    monkeypatch.undo()
    identity.tokenisation_identity.cache_clear()


def test_token_ids_are_in_the_key(folder: Path, rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that was edited without a new release gives other keys if it gives other ids, and the same keys if not."""
    files = ["before"]
    monkeypatch.setattr(task_context, "tokenisation_files", lambda: files[-1])
    first = keys(str(folder), rows, tmp_path)
    with monkeypatch.context() as patched:
        prompts = Encoder.row_prompts
        patched.setattr(Encoder, "row_prompts", lambda *args: [ids[::-1] for ids in prompts(*args)])
        files.append("edited")
        assert not first & keys(str(folder), rows, tmp_path)
    files.append("edited again")
    assert first == keys(str(folder), rows, tmp_path)


def test_a_plan_tokenises_each_set_once(
    folder: Path, rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store keeps the facts; damaged ones are found again, and `expunge verify` names them."""
    first = keys(str(folder), rows, tmp_path)
    facts = sorted((tmp_path / "store" / task_context.TOKENISED).iterdir())
    assert facts
    monkeypatch.setattr(task_context, "_facts", {})
    with monkeypatch.context() as broken:
        broken.setattr(task_context.TaskContext, "planned_encoder", lambda self: pytest.fail("not needed"))
        assert keys(str(folder), rows, tmp_path) == first
    for file in facts:
        file.chmod(0o644)
        file.write_bytes(file.read_bytes().replace(b"fact", b"fakt"))
    damaged = verify_store(Store(tmp_path / "store"), lambda done, total: None).faults
    assert {fault.path for fault in damaged} == {*facts} and all(fault.note for fault in damaged)
    monkeypatch.setattr(task_context, "_facts", {})
    assert keys(str(folder), rows, tmp_path) == first
    assert not verify_store(Store(tmp_path / "store"), lambda done, total: None).faults


def test_two_stores_of_one_relative_path_have_their_own_facts(
    folder: Path, rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that changes its working folder, such as a notebook, writes the facts into each store."""
    places = [tmp_path / "a", tmp_path / "b"]
    monkeypatch.setattr(task_context, "_facts", {})
    for place in places:
        place.mkdir()
        monkeypatch.chdir(place)
        assert keys(str(folder), rows, Path("."))
    first, second = (sorted(f.name for f in (p / "store" / task_context.TOKENISED).iterdir()) for p in places)
    assert first == second != []


def test_the_ids_of_a_moving_hub_id_are_not_kept(hub: dict[str, Any], rows: str, tmp_path: Path) -> None:
    assert keys(HUB, rows, tmp_path) and not (tmp_path / "store" / task_context.TOKENISED).exists()
    commit = f"model.model_args.revision={'a' * 40}"
    assert keys(HUB, rows, tmp_path, commit) and any((tmp_path / "store" / task_context.TOKENISED).iterdir())


def test_the_text_of_a_hub_ids_template_is_in_the_key(hub: dict[str, Any], rows: str, tmp_path: Path) -> None:
    first = keys(HUB, rows, tmp_path)
    assert first and first == keys(HUB, rows, tmp_path)
    hub["template"] = DATED.replace("<user>", "<human>").replace("<{{ m.role }}>", "<<{{ m.role }}>>")
    assert not first & keys(HUB, rows, tmp_path)
    hub["template"] = DATED
    assert not first & keys(HUB, rows, tmp_path, "model.template_args.date_string=01 Jan 2024")
    hub["template"] = None
    assert keys(HUB, rows, tmp_path)  # a plan needs no hub


def test_the_rendered_text_has_the_fixed_date(folder: Path, hub: dict[str, Any], rows: str, tmp_path: Path) -> None:
    for source in (str(folder), HUB):
        setting = jobs_of(source, rows, tmp_path).prepared.setting
        assert setting is not None
        text = setting.rendered_template
        assert text is not None and text.count("10 Apr 2025") == text.count("<eos>") > 1


def test_a_run_shows_one_example(
    folder: Path, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], micro: list[str]
) -> None:
    paths = [f"paths.store={tmp_path}/store", f"paths.output_dir={tmp_path}/out"]
    source = f"model.model_args.pretrained_model_name_or_path={folder}"
    few = ["eval.generation.max_new_tokens=2", "retain=" + rows.removeprefix("forget=").replace("rows", "keep")]
    (tmp_path / "keep.csv").write_text("question,answer\nWhere is it?,Here\nWhen was it?,Then\n")
    assert main(["eval", "benchmark=custom", rows, source, "task_name=t", *paths, *few]) == 0
    output = capsys.readouterr().err
    assert output.count("example: forget row 0, by the chat template; answer and end are scored") == 1
    assert "it is fixed at 10 Apr 2025" in output
    # a model from scratch has its tokenizer only after the first job
    words = ["benchmark=world", "model=llama-64k", *micro[2:7], "trainer.args.max_steps=1", "task_name=s"]
    assert main(["train", *words, *paths[:1], f"paths.output_dir={tmp_path}/out2"]) == 0
    assert capsys.readouterr().err.count("example: forget row 0, by plain text") == 1


def test_cut_answers_are_named_in_the_first_lines(
    folder: Path, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from expunge.pipelines.study.template_example import print_example

    whole = jobs_of(str(folder), rows, tmp_path).prepared.setting
    assert whole is not None
    most = len(whole.encoder(str(folder)).prompt("Who wrote book 2?")) + 1
    setting = jobs_of(str(folder), rows, tmp_path, f"model.template_args.max_length={most}").prepared.setting
    assert setting is not None
    lines: list[str] = []
    print_example(setting, lines.append)
    encoder, rows_read = setting.encoder(str(folder)), setting.benchmark.sets["forget"]
    n = sum(bool(encoder.row(rows_read, row, "answer").truncated) for row in rows_read)
    assert n == 3
    assert any(f"forget: {n} of 3 rows are longer than {most} tokens" in line for line in lines)
