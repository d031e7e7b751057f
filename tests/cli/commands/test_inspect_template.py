"""`expunge inspect template` and what a model folder without `model=NAME` reads with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.cli.compose import single_tree, study_tree
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.load import save_model
from expunge.pipelines.study.resolve_task import template_of
from expunge.pipelines.study.single import SingleJob
from expunge.pipelines.study.task_config import decode_task

Run = Callable[..., tuple[int, str, str]]
CHAT = (
    "{% for m in messages %}<bos>{{ m.role }}: {{ m.content }}<eos>\n{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant: {% endif %}"
)
SOURCE = "model.model_args.pretrained_model_name_or_path"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("chat")
    tokenizer = train_tokenizer(["user: Who wrote it? assistant: Ana Silva"], 300, max_length=256)
    tokenizer.chat_template = CHAT
    save_model(build_llama("llama-64k", tokenizer, vocab_size=300, seed=0), tokenizer, root)
    return str(root)


def test_one_example_is_shown_as_tokens(folder: str, expunge: Run) -> None:
    code, out, errors = expunge("inspect", "template", "--model", folder)
    lines = out.splitlines()
    assert (code, errors) == (0, "")
    assert lines[0] == "example: example row 0, by the chat template; answer and end are scored"
    assert [line.split()[0] for line in lines[1:4]] == ["prompt", "answer", "end"]
    assert "|<eos>|  (1 tokens)" in lines[3] and "<eos>" in lines[4]
    assert "generation stops at <eos>" in lines[4]


def test_special_text_is_counted_in_a_note(folder: str, expunge: Run, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("question,answer\nWhen?,the <eos> price\nWho?,Ana\n")
    words = ("benchmark=custom", f"forget={rows}", "--rows", "forget", "--model", folder)
    code, out, _ = expunge("inspect", "template", *words)
    assert code == 0
    assert "note: forget: 1 of 2 rows contain the text of a special token; it is encoded as plain text" in out
    assert "|<eos>|  (1 tokens)" in out


def test_a_broken_template_is_one_line(folder: str, expunge: Run) -> None:
    code, _, errors = expunge("inspect", "template", "--model", folder, "model.template_args.chat_template='{% for'")
    assert code == 2
    assert errors.startswith("expunge: error: model.template_args.chat_template: line 1 is not valid")
    assert len(errors.strip().splitlines()) == 1


def test_variables_are_given_by_name(folder: str) -> None:
    words = [f"{SOURCE}={folder}", "model.template_args.template_kwargs.enable_thinking=false", "task_name=x"]
    task = decode_task(SingleJob, single_tree("eval", words)[0])
    assert dict(task.template_args.template_kwargs) == {"enable_thinking": False}


def test_a_folder_reads_by_its_own_template(folder: str) -> None:
    task = decode_task(SingleJob, single_tree("eval", [f"{SOURCE}={folder}", "task_name=x"])[0])
    assert task.model.source == folder
    template = template_of(task)
    assert template.apply_chat_template is True
    assert template.system_prompt is None and template.date_string is None
    named = ["model=Llama-3.2-1B-Instruct", f"{SOURCE}={folder}", "task_name=x"]
    assert decode_task(SingleJob, single_tree("eval", named)[0]).template_args.system_prompt is not None
    inputs = [f"{SOURCE}={folder}", "task_name=x", "model.template_args.apply_chat_template=false"]
    assert template_of(decode_task(SingleJob, single_tree("eval", inputs)[0])).apply_chat_template is False
    assert (
        study_tree(["study=custom", "forget=-", f"{SOURCE}={folder}"])["model"]["template_args"]["system_prompt"]
        is None
    )


def test_the_older_name_says_so(folder: str, expunge: Run) -> None:
    code, _, errors = expunge("inside", "template", "--model", folder)
    assert (code, errors.strip()) == (0, "note: `expunge inside` is now `expunge inspect`")
