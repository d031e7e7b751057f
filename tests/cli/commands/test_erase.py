"""`expunge erase` from the command line: a whole erasure of a micro model, going on after a stop, and wrong input."""

from __future__ import annotations

import csv
import html
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from expunge.cli.main import main
from expunge.core.errors import ConfigError
from expunge.core.fingerprints import file_sha256
from expunge.data.custom import Columns, load_rows
from expunge.engine.job import JobContext
from expunge.metrics.results import read_results
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.load import save_model
from expunge.pipelines.erase import run as erase_run
from expunge.pipelines.erase.goal_values import MISSED, STATES
from expunge.pipelines.erase.goals import AUDIT_STATES
from expunge.pipelines.erase.jobs import GivenModelJob

Run = Callable[..., tuple[int, str, str]]

SECRET = "<script>alert(1)</script> zanzibar"
FORGET = [(f"Who is no {i}?", f"It is Ann {i} of {SECRET}.") for i in range(6)]
KEEP = [(f"Which river is number {i}?", f"It is the long river {i}.") for i in range(10)]
UNSEEN = [(f"Who is no {i}?", f"It is Bob {i} of {SECRET}.") for i in range(20, 24)]
ONE = ("--method", "GradDiff", "--learning-rate", "0.001", "--budget", "5m")
SHORT = ("unlearn.per_device_train_batch_size=6", "eval.generation.max_new_tokens=4")


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as f:
        csv.writer(f).writerows([("question", "answer"), *rows])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the rows, a model of random weights (`base`) and one that was taught them (`full`)."""
    folder = tmp_path_factory.mktemp("erase")
    for name, rows in (("forget", FORGET), ("keep", KEEP), ("unseen", UNSEEN), ("all", [*FORGET, *KEEP])):
        write(folder / f"{name}.csv", rows)
    tokenizer = train_tokenizer([q + a for q, a in [*FORGET, *KEEP]], 400, max_length=256)
    save_model(build_llama("llama-64k", tokenizer, vocab_size=400, seed=0), tokenizer, folder / "base")
    code = main([
        "train", "benchmark=custom", "model=llama-64k", f"forget={folder}/forget.csv", f"retain={folder}/keep.csv",
        "data.args.train_full=true", "task_name=full", f"paths.output_dir={folder}/full", f"paths.store={folder}/store",
        f"model.model_args.pretrained_model_name_or_path={folder}/base", "trainer.args.learning_rate=0.01",
        "trainer.args.max_steps=60", "trainer.args.per_device_train_batch_size=16",
        "trainer.args.gradient_accumulation_steps=1",
    ])  # fmt: skip
    assert code == 0
    return folder


@pytest.fixture
def here_with(demo: Path, here: Path) -> Path:
    """A working folder that holds them."""
    for path in demo.iterdir():
        (here / path.name).symlink_to(path)
    return here


@pytest.fixture(scope="module")
def erased(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A finished erasure, and its exit code."""
    out = tmp_path_factory.mktemp("out") / "erased"
    words = ("erase", "--model", f"{demo}/full", "--forget", f"{demo}/forget.csv", "--retain", f"{demo}/keep.csv")
    code = main([*words, "--holdout", f"{demo}/unseen.csv", "--out", str(out), *ONE, *SHORT])
    return out, code


def words_of(out: str = "out", **other: str) -> list[str]:
    inputs = {"--model": "full", "--forget": "forget.csv", "--retain": "keep.csv", "--out": out}
    inputs |= {f"--{key.replace('_', '-')}": value for key, value in other.items()}
    return ["erase", *(word for pair in inputs.items() for word in pair)]


@pytest.mark.slow
def test_a_model_a_card_and_a_report_are_made(erased: tuple[Path, int]) -> None:
    out, code = erased
    assert {p.name for p in (out / "model").iterdir()} >= {"model.safetensors", "tokenizer.json", "README.md"}
    report = json.loads((out / "erasure_report.json").read_text())
    assert code == report["exit_code"] == (3 if any(x["state"] in MISSED for x in report["lines"]) else 0)
    words = [f"{line['state']}: {line['text']}" for line in report["lines"]]
    card, page, text = (
        html.unescape(re.sub("</?strong>|[*]{2}", "", (out / name).read_text()).replace("\\", ""))
        for name in ("model/README.md", "erasure_report.html", "erasure_report.md")
    )
    assert all(line in side for line in words for side in (card, page, text))  # one wording in all of them
    assert [t["chosen"] for t in report["trials"]] == [True]
    output = [line["text"] for line in report["lines"]]
    assert any(line.startswith("utility: ") for line in output)
    assert any(line.startswith("forgetting: probability of the answers") for line in output)
    audits = ("prompting", "exposure", "relearn", "quantize")
    assert all(any(line.startswith(audit) for line in output) for audit in audits)
    assert report["report"]["asked"][0]["rows"] == 6
    assert (out / "audits" / "after-relearn.parquet").is_file() or (out / "audits" / "after-exposure.parquet").is_file()
    assert all(pq.read_table(file).num_rows for file in (out / "audits").iterdir())  # no table without a row


@pytest.mark.slow
def test_no_text_of_a_row_is_in_the_card_or_the_report(erased: tuple[Path, int]) -> None:
    out, _ = erased
    assert not {p.name for p in (out / "model").iterdir()} & {"speed.jsonl", "log.jsonl", "job.json"}
    for name in ("model/README.md", "erasure_report.html", "erasure_report.md", "erasure_report.json"):
        output = (out / name).read_text()
        assert "zanzibar" not in output and "river" not in output, name
    card = (out / "model" / "README.md").read_text()
    assert card.startswith("---\n") and "GradDiff" in card and "utility: " in card
    assert str(out) not in card


@pytest.mark.slow
def test_the_best_models_weights_are_the_ones_that_were_measured(erased: tuple[Path, int]) -> None:
    out, _ = erased
    result = next((out / ".expunge" / "unlearn").iterdir())
    assert (result / "model.safetensors").read_bytes() == (out / "model" / "model.safetensors").read_bytes()
    assert not list((out / ".expunge").glob("edit/*/model.safetensors"))  # rounded weights are let go


@pytest.mark.slow
def test_the_same_command_again_says_the_same_and_does_nothing(
    here_with: Path, expunge: Run, erased: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(erased[0], here_with / "out")
    monkeypatch.setattr(erase_run, "_erase", lambda *args: pytest.fail("nothing is left to do"))
    code, out, errors = expunge(*words_of(unseen="unseen.csv"), *ONE, *SHORT)
    assert code == erased[1], errors
    assert "utility: " in out.splitlines()[-1] or "achieved" in out or "not known" in out
    code, _, errors = expunge(*words_of(unseen="unseen.csv", seed="1"), *ONE, *SHORT)
    assert code == 2 and "out contains another erasure" in errors


@pytest.mark.slow
def test_a_lost_report_is_written_again(here_with: Path, expunge: Run, erased: tuple[Path, int]) -> None:
    shutil.copytree(erased[0], here_with / "out")
    for form in ("html", "md", "json"):
        (here_with / "out" / f"erasure_report.{form}").unlink()
        code, _, errors = expunge(*words_of(holdout="unseen.csv"), *ONE, *SHORT)
        assert code == erased[1], errors
        assert (here_with / "out" / f"erasure_report.{form}").is_file()


@pytest.mark.slow
def test_a_stopped_erasure_goes_on_with_the_same_models(
    here_with: Path, expunge: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(erase_run, "run_audits", stop)
    words = [*words_of(), *ONE, *SHORT]
    code, _, errors = expunge(*words)
    assert code == 130 and "run the same command again to continue" in errors
    assert "Not yet measured" in (here_with / "out" / "model" / "README.md").read_text()
    monkeypatch.undo()
    monkeypatch.chdir(here_with)
    monkeypatch.setattr(erase_run, "run_audits", lambda *args: [])
    code, out, errors = expunge(*words)
    assert code in (0, 3), errors
    assert "unlearn GradDiff lr=0.001: hit" in out and "how long a step takes" not in out
    assert "Not yet measured" not in (here_with / "out" / "model" / "README.md").read_text()


@pytest.mark.slow
def test_texts_that_are_asked_for_are_escaped(here_with: Path, expunge: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erase_run, "run_audits", lambda *args: [])
    code, _, errors = expunge(*words_of(), *ONE, *SHORT, "--show-text")
    assert code in (0, 3), errors
    page = (here_with / "out" / "erasure_report.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt; zanzibar" in page
    assert "<script>alert" not in page and "<script>alert" not in (here_with / "out" / "erasure_report.md").read_text()
    assert "zanzibar" not in (here_with / "out" / "model" / "README.md").read_text()


@pytest.mark.slow
def test_a_control_is_made_of_the_base_and_all_rows(
    here_with: Path, expunge: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erase_run, "run_audits", lambda *args: [])
    monkeypatch.setattr(erase_run, "published", lambda value, places: value)  # both would be rounded to 0
    train = ("train.max_steps=60", "train.learning_rate=0.01", "train.per_device_train_batch_size=16")
    code, _, errors = expunge(
        *words_of(base="base", full_data="all.csv"), *ONE, *SHORT, *train, "train.gradient_accumulation_steps=1"
    )
    assert code in (0, 3), errors
    assert "note: without a model" not in errors
    report = json.loads((here_with / "out" / "erasure_report.json").read_text())
    assert report["report"]["has_retain"] is True
    finding = report["report"]["findings"][0]
    assert 0 < finding["retain"] < finding["full"]  # the control was not taught the rows, the model was


@pytest.mark.slow
def test_a_given_control_stands_beside_the_model_in_the_audits(here_with: Path, expunge: Run) -> None:
    code, out, errors = expunge(*words_of(retain_model="base"), *ONE, *SHORT)
    assert code in (0, 3), errors
    report = json.loads((here_with / "out" / "erasure_report.json").read_text())
    verdicts = [f["verdict"] for f in report["report"]["findings"] if f["name"].startswith("Audit relearn")]
    assert verdicts and all(v.startswith("Verdict: ") for v in verdicts)
    outcome = [line for line in out.strip().splitlines() if not line.startswith(("next:", "  "))][-1]
    assert outcome.split(":")[0] in STATES
    compared = next(x for x in report["lines"] if x["text"].startswith("compared with a model that never saw the rows"))
    word = report["verdict"]["forgot"]["word"]
    assert f": {word}. " in compared["text"]  # the goal has the word of the verdict
    assert compared["state"] == AUDIT_STATES.get(word, "not known")
    assert "next:    read " in out


def hub_cache(folder: Path, cache: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a model folder into the hub's local cache as OWNER/NAME: blobs, and a snapshot of links to them."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    place, commit = cache / f"models--{name.replace('/', '--')}", "d" * 40
    for part in ("refs", "blobs", f"snapshots/{commit}"):
        (place / part).mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    for file in folder.iterdir():
        shutil.copy(file, place / "blobs" / file.name)
        (place / "snapshots" / commit / file.name).symlink_to(f"../../blobs/{file.name}")


def test_a_control_by_its_hub_id_is_checked_and_copied_like_a_folder(
    demo: Path, here_with: Path, expunge: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_cache(demo / "base", here_with / "hub", "org/never-saw", monkeypatch)
    monkeypatch.setattr("expunge.cli.commands.erase.MOST_TESTED", 5)  # the plan alone
    code, out, errors = expunge(*words_of(retain_model="org/never-saw"), "--dry-run")
    assert code == 0, errors
    assert "a model that never saw the rows: yes" in out
    job = GivenModelJob.of("org/never-saw")
    assert job.contents == {"hub": "org/never-saw", "revision": "d" * 40}
    (here_with / "job").mkdir()
    job.run({}, here_with / "job", JobContext())
    copied = {p.name for p in (here_with / "job").iterdir()}
    assert copied == {p.name for p in (demo / "base").iterdir()}
    assert not any(p.is_symlink() for p in (here_with / "job").iterdir())
    assert file_sha256(here_with / "job" / "model.safetensors") == file_sha256(demo / "base" / "model.safetensors")


def test_a_control_whose_weights_the_hub_lacks_is_one_line(
    demo: Path, here_with: Path, expunge: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_cache(demo / "base", here_with / "hub", "org/no-weights", monkeypatch)
    (here_with / "hub/models--org--no-weights/snapshots" / ("d" * 40) / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"^org/no-weights: .* nor to be had from the hub$"):
        GivenModelJob.of("org/no-weights").run({}, here_with, JobContext())
    code, _, errors = expunge(*words_of(retain_model="org/absent"), "--dry-run")
    assert code == 2 and errors.count("\n") == 1
    assert "--retain-model: no folder org/absent, and no such model on the hub or in its cache" in errors


def test_a_dry_run_shows_the_plan_and_writes_nothing(here_with: Path, expunge: Run) -> None:
    code, out, errors = expunge(*words_of(), "--dry-run")
    assert code == 0, errors
    assert "rows to forget: 6" in out and "first trial: NPO" in out and "audit: relearn" in out
    assert "the budget ends it earlier" not in out
    assert "or later: SimNPO" in out and "further learning rates follow from the results" in out
    assert "rows to keep: 6 to train on with 2 everyday questions, 2 to choose by, 2 to report" in out
    assert "there is no forget quality" in errors
    assert "the model knows 6 of the 6 rows" in out and "row 0: known" in out and "rows in several wordings" in out
    assert not list(here_with.glob("out*"))


def test_a_dry_run_of_many_rows_does_not_ask_the_model(
    here_with: Path, expunge: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("expunge.cli.commands.erase.MOST_TESTED", 5)
    monkeypatch.setattr(erase_run, "know_rows", pytest.fail)
    monkeypatch.setattr(erase_run, "seconds_of", lambda jobs, store: 1e6)
    code, out, errors = expunge(*words_of(), "--dry-run")
    assert "about 1000000 s by the model's size; the budget ends it earlier" in out
    assert code == 0, errors
    assert "at most, so not on these 6" in errors and "the model knows" not in out
    assert "rows to forget: 6" in out and "first trial: NPO" in out and "audit: relearn" in out
    assert not list(here_with.glob("out*"))


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({"forget": "forgot.csv"}, "forgot.csv"),
        ({"forget": "empty.csv"}, "empty.csv: no rows"),
        ({"forget": "typo.csv"}, "no column 'answer'; did you mean 'anwser'?"),
        ({"forget": "blank.csv"}, "blank.csv row 1: 'answer' is empty"),
        ({"retain": "forget.csv"}, "forget.csv row 0 is also forget.csv row 0"),
        ({"retain": "few.csv"}, "few.csv: 3 rows to keep; at least 6 are needed"),
        ({"holdout": "forget.csv"}, "forget.csv row 0 is also forget.csv row 0"),
        ({"model": "fulll"}, "fulll"),
        ({"model": "./fulll"}, "no folder ./fulll; did you mean 'full'?"),
        ({"model": "store"}, "store contains no config.json"),
        ({"method": "NPOO"}, "--method: no method named 'NPOO'; did you mean 'NPO'?"),
        ({"method": "steering"}, "--method: no loss named 'steering'; it is a wrapper: name it in `methods`"),
        ({"method": "finetune"}, "--method: finetune does not unlearn"),
        ({"method_arg": "beta=1"}, "--method-arg: settings belong to one method"),
        ({"method": "NPO", "method_arg": "betta=1"}, "NPO has no such setting; did you mean 'beta'?"),
        ({"method": "NPO", "method_arg": "beta"}, "--method-arg: 'beta' is not of the form key=value"),
        ({"method": "NPO", "method_arg": "beta=[1"}, "--method-arg: 'beta=[1': the value is not YAML"),
        ({"budget": "half an hour"}, "--budget: must be a time above 0, such as 1h, 1h30m"),
        ({"budget": "0m"}, "--budget: must be a time above 0"),
        ({"min_utility": "1.5"}, "--min-utility: must be a share from 0 to 1, got 1.5"),
        ({"max_residual": "-1"}, "--max-residual: must be a share from 0 to 1, got -1"),
        ({"seed": "-1"}, "--seed: must be a whole number from 0 to 2**32 - 1, got -1"),
        ({"retain_model": "broken"}, "--retain-model: broken/model.safetensors is not a complete safetensors file"),
        ({"learning_rate": "0"}, "--learning-rate: must be a number above 0, got 0"),
        ({"out": "keep.csv"}, "--out: keep.csv is an input (--retain) and would be replaced"),
        ({"out": "keep.csv/x"}, "--out: keep.csv cannot be a folder: "),
        ({"out": "store"}, "--out: store is not empty"),
        ({"base": "base"}, "--train-data: missing"),
        ({"train_data": "all.csv"}, "--base: missing"),
        ({"base": "base", "train_data": "keep.csv"}, "keep.csv: contains none of the rows to forget"),
        ({"base": "base", "train_data": "forget.csv"}, "forget.csv: contains only rows to forget"),
        ({"retain_model": "bse"}, "--retain-model: no folder bse"),
        ({"retain_model": "base", "base": "base", "train_data": "all.csv"}, "--retain-model: it is the control"),
    ],
)  # fmt: skip
def test_wrong_input_is_one_line_before_a_weight_is_read(
    here_with: Path, expunge: Run, monkeypatch: pytest.MonkeyPatch, other: dict[str, str], expected: str
) -> None:
    (here_with / "empty.csv").write_text("question,answer\n")
    (here_with / "typo.csv").write_text("question,anwser\nWho?,Ann\n")
    (here_with / "blank.csv").write_text("question,answer\nWho?,Ann\nWhere?,\n")
    write(here_with / "few.csv", KEEP[:3])
    shutil.copytree(here_with / "base", here_with / "broken")
    (here_with / "broken" / "model.safetensors").write_bytes((here_with / "base/model.safetensors").read_bytes()[:900])
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *a, **k: pytest.fail("read"))
    code, _, errors = expunge(*words_of(**other))
    assert code == 2, errors
    assert expected in errors
    assert len(errors.strip().splitlines()) == 1
    assert not (here_with / "out").exists()


def test_an_override_that_is_none_is_one_line(here_with: Path, expunge: Run) -> None:
    for word, expected in (
        ("eval.generaton.max_new_tokens=3", "unknown key"),
        ("methods", "not of the form key=value"),
        ("methods=[NPO]", "methods: `expunge erase` does not read it; name a method by --method"),
        ("unlearn.learning_rate=0.1", "unlearn.learning_rate: `expunge erase` does not read it; give --learning-rate"),
        ("unlearn.evaluate.every=1", "unlearn.evaluate.every: `expunge erase` does not read it"),
        ("data.request=1/2", "data.request: `expunge erase` does not read it; give a file of only these rows"),
        ("eval.extras=[fluency]", "eval.extras: `expunge erase` does not read it"),
        ("launch.workers=2", "launch.workers: `expunge erase` does not read it"),
        ("train.learning_rate=0.1", "train.learning_rate: only a control reads it"),
    ):
        code, _, errors = expunge(*words_of(), word)
        assert code == 2 and expected in errors and len(errors.strip().splitlines()) == 1


def test_settings_of_the_training_are_checked_before_anything_is_measured(here_with: Path, expunge: Run) -> None:
    for word in ("unlearn.weight_decay=abc", "unlearn.trainable_last_k_layers=-1"):
        code, out, errors = expunge(*words_of(), *SHORT, word)
        assert code == 2 and word.partition("=")[0] in errors, errors
        *notes, error = errors.strip().splitlines()
        assert all(note.startswith(("note: ", "example: ", "  ")) for note in notes)
        assert error.startswith("expunge: error: ") and out == ""
        assert not (here_with / "out").exists()


@pytest.mark.slow
def test_rows_that_are_too_long_are_told_of(here_with: Path, expunge: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erase_run, "run_audits", lambda *args: [])
    write(here_with / "long.csv", [*FORGET[:5], ("Who is no 5?", "It is Ann. " * 40)])
    words = [*words_of(forget="long.csv"), *ONE, *SHORT, "model.template_args.max_length=48"]
    code, _, errors = expunge(*words)
    assert code == 3, errors
    assert "note: 1 of the 6 rows to forget are longer than 48 tokens: the rest is neither unlearned" in errors
    report = json.loads((here_with / "out" / "erasure_report.json").read_text())
    assert next(x for x in report["lines"] if x["text"].startswith("whole rows: 1 of the 6"))["state"] == "not achieved"
    assert any("longer than 48 tokens" in note for note in report["report"]["notes"])


@pytest.mark.slow
def test_the_hashes_of_the_report_are_those_of_the_files(demo: Path, erased: tuple[Path, int]) -> None:
    out, _ = erased
    report = json.loads((out / "erasure_report.json").read_text())["report"]
    hashes = dict(report["models"])
    assert hashes["the weights before (model.safetensors)"] == file_sha256(demo / "full" / "model.safetensors")
    assert hashes["the weights after (model.safetensors)"] == file_sha256(out / "model" / "model.safetensors")
    assert sum("the weights" in name for name in hashes) == 2


@pytest.mark.slow
def test_a_commitment_stands_for_the_rows_and_no_plain_hash_leaves(
    demo: Path, erased: tuple[Path, int], expunge: Run, here_with: Path
) -> None:
    out, _ = erased
    key = out / "erasure_key.json"
    assert key.stat().st_mode & 0o777 == 0o600
    columns = Columns()
    plain = [file_sha256(demo / "forget.csv"), load_rows(str(demo / "forget.csv"), "forget", columns).fingerprint()]
    commitment = json.loads((out / "erasure_report.json").read_text())["report"]["asked"][0]["commitment"]
    for path in [*(out / "model").iterdir(), *out.glob("erasure_report.*")]:
        content = path.read_bytes()
        assert not any(sha.encode() in content for sha in [*plain, json.loads(key.read_text())["key"]]), path
    assert f"erasure_commitment: {commitment}" in (out / "model" / "README.md").read_text()
    words = ("erase", "--verify-commitment", str(out / "model"), "--key", str(key), "--forget")
    assert expunge(*words, "forget.csv")[0] == 0
    code, output, _ = expunge(*words, "keep.csv")
    assert code == 1 and output.startswith("no match: ")


@pytest.mark.slow
def test_no_exact_number_of_the_rows_leaves(erased: tuple[Path, int]) -> None:
    """Whoever has the new model could test guesses of a row by an exact number."""
    out, _ = erased
    content = json.loads((out / "erasure_report.json").read_text())
    exact = read_results(next((out / ".expunge" / "metrics").glob("after-*/CUSTOM_EVAL.json")))[0][
        "forget_Q_A_Prob"
    ].value
    finding = content["report"]["findings"][0]
    assert finding["value"] == round(exact, 2) != exact
    for trial in content["trials"]:
        del trial["learning_rate"], trial["method_args"]
    shown = [content["verdict"], content["lines"], content["trials"]]
    shown += [content["report"][name] for name in ("findings", "kept", "achieved", "notes", "verdict", "missing")]
    assert not re.findall(r"[^,: ]*(?:\d\.\d{3,}|\de-)[^,: ]*", json.dumps(shown))
    card = (out / "model" / "README.md").read_text().splitlines()
    assert [line for line in card if re.search(r"\b\d\.\d{3,}|\b\de-\d", line) and "learning rate" not in line] == []


def test_a_model_that_gives_no_numbers_ends_with_the_reason(here_with: Path, expunge: Run) -> None:
    shutil.copytree(here_with / "full", here_with / "nan")
    weights = load_file(here_with / "nan" / "model.safetensors")
    save_file({n: w * math.nan for n, w in weights.items()}, here_with / "nan" / "model.safetensors", {"format": "pt"})
    code, _, errors = expunge(*words_of(model="nan"), *ONE, *SHORT)
    assert code == 1 and "do its weights contain NaN" in errors.splitlines()[-1], errors
    assert not (here_with / "out" / "model").exists()


def test_a_model_that_knows_no_row_ends_with_3_and_nothing_is_written(here_with: Path, expunge: Run) -> None:
    code, out, errors = expunge(*words_of(model="base"), *ONE, *SHORT)
    assert code == 3, errors
    assert "the model knows 0 of the 6 rows to forget" in out
    assert out.splitlines()[-1].startswith("the model knows none of the rows to forget")
    assert not (here_with / "out").exists()


@pytest.mark.slow
def test_general_ability_is_in_the_lines_and_in_the_report(erased: tuple[Path, int]) -> None:
    report = json.loads((erased[0] / "erasure_report.json").read_text())
    ability = next(line for line in report["lines"] if line["text"].startswith("general ability"))
    assert ability["state"] == "not known" and "than guessing does" in ability["text"]  # a model without training
    assert {"General ability: world facts", "General ability: fluency"} <= {f["name"] for f in report["report"]["kept"]}
    assert any(line["text"].startswith("answers: ") for line in report["lines"])


@pytest.mark.slow
def test_a_model_under_the_floor_is_not_written_unless_it_is_asked_for(
    here_with: Path, expunge: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erase_run, "why_broken", lambda *args: "gibberish: all of it")
    monkeypatch.setattr(erase_run, "run_audits", lambda *args: [])
    words = [*words_of(), *ONE, *SHORT]
    code, out, errors = expunge(*words)
    assert code == 3, errors
    assert "no model was written" in out and not (here_with / "out" / "model").exists()
    report = json.loads((here_with / "out" / "erasure_report.json").read_text())
    assert report["lines"][0]["text"] == "no model was written: gibberish: all of it (see --write-anyway)"
    assert report["written"] is False
    assert not any("the weights after" in name for name in dict(report["report"]["models"]))
    assert expunge(*words)[0] == 3 and not (here_with / "out" / "model").exists()
    code, out, errors = expunge(*words, "--write-anyway")
    assert code in (0, 3), errors
    assert (here_with / "out" / "model" / "model.safetensors").is_file() and "no model was written" not in out


def test_rows_made_for_a_question_need_consent(here_with: Path, expunge: Run) -> None:
    words = [w for w in words_of(forget="Who is no 1?") if w] + [*ONE, "eval.generation.max_new_tokens=20"]
    code, _, errors = expunge(*words)
    assert code == 2 and "--yes: missing" in errors.splitlines()[-1], errors
    code, out, errors = expunge(*words, "--dry-run")
    assert code == 0 and "made from the model's own answers (1):" in out and "Who is no 1? -> " in out, errors
    assert not list(here_with.glob("out*"))


@pytest.mark.slow
def test_agreed_rows_are_a_file_next_to_the_folder(
    here_with: Path, expunge: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erase_run, "run_audits", lambda *args: [])
    words = [*words_of(forget="Who is no 1?"), *ONE, "eval.generation.max_new_tokens=20", "--yes"]
    code, out, errors = expunge(*words)
    assert code in (0, 3), errors
    (file,) = here_with.glob("out.forget-*.jsonl")
    row = json.loads(file.read_text())
    assert row["question"] == "Who is no 1?" and f"-> {row['answer']}" in out
    assert json.loads((here_with / "out" / "erasure_report.json").read_text())["report"]["asked"][0]["rows"] == 1
    for report in (here_with / "out").glob("erasure_report.*"):
        content = report.read_text()
        assert "Who is no 1?" not in content and file.name not in content and "NOT_SHOWN" in content, report
    code, out, _ = expunge(*words[:-1])
    assert code in (0, 3) and "which you agreed to before" in out


def test_a_name_or_a_file_but_not_both(here_with: Path, expunge: Run) -> None:
    code, _, errors = expunge(*words_of(), "--forget-entity", "Ann")
    assert code == 2 and "not allowed with argument" in errors
    words = [w for w in words_of() if w not in ("--forget", "forget.csv")]
    code, _, errors = expunge(*words, "--forget-entity", " ")
    assert code == 2 and "--forget-entity: is empty" in errors
    code, _, errors = expunge(*words, "--forget", " ? ")
    assert code == 2 and "--forget: ' ? ' is an empty question" in errors


def test_settings_without_effect_are_named_by_erase(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, rows in (("forget", FORGET), ("keep", KEEP)):
        write(here / f"{name}.csv", rows)
    code = main([*words_of(), "unlearn.warmup_steps=5", "unlearn.lr_scheduler_type=constant", "--dry-run"])
    assert code == 2  # there is no model; the settings are read first
    assert "note: unlearn.warmup_steps has no effect: lr_scheduler_type=constant" in capsys.readouterr().err
