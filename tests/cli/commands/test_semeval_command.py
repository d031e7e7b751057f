"""`expunge semeval` and `expunge.semeval.unlearn`, at the smallest size."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from expunge.cli.commands import semeval_arguments
from expunge.cli.commands.semeval import _summary, _tree
from expunge.core.errors import JobError
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.config import TokenizerArgs
from expunge.models.load import load_tokenizer, save_model
from expunge.pipelines import semeval
from expunge.pipelines.budget import Budget
from expunge.pipelines.submission_folder import SubmissionFolder
from expunge.semeval import unlearn

Run = Callable[..., tuple[int, str, str]]
FAST = (
    "trainer.args.per_device_train_batch_size=4",
    "trainer.args.gradient_accumulation_steps=1",
    "trainer.args.optim=sgd",
)
EXPERIMENTS = ("iterative", "ga", "gd", "kl", "npo", "ails-ntua", "zjuklab")


def rows_of(side: str) -> list[dict[str, str]]:
    return [
        {"id": f"{side}-{task}{kind}", "task": task, "input": f"{side} {task} {kind}", "output": f"gold {task}"}
        for task in ("Task1", "Task2", "Task3")
        for kind in ("sc1", "qa0")
    ]


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A model, forget rows as parquet, retain rows as lines."""
    root = tmp_path_factory.mktemp("semeval")
    for side in ("forget", "retain"):
        (root / side).mkdir()
    pq.write_table(pa.Table.from_pylist(rows_of("forget")), root / "forget" / "forget.parquet")
    lines = "".join(json.dumps(r) + "\n" for r in rows_of("retain"))
    (root / "retain" / "retain.jsonl").write_text(lines)
    texts = [t for side in ("forget", "retain") for r in rows_of(side) for t in (r["input"], r["output"])]
    tokenizer = train_tokenizer(texts, 512, max_length=64)
    model = root / "a model, with=signs"  # which mean something in an override
    save_model(build_llama("llama-64k", tokenizer, vocab_size=512, seed=0), tokenizer, model)
    return model, root / "forget", root / "retain"


def call(places: tuple[Path, Path, Path], out: Path, *words: str, **options: Any) -> semeval.Submission:
    model, forget, retain = places
    return unlearn(str(model), str(out), str(forget), str(retain), overrides=[*words, *FAST], **options)


def status(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "semeval.json").read_text())
    return content


def test_the_tasks_own_call(places: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """GA goes up the loss of the forget rows; model and tokenizer lie in the output folder, and nothing else hidden."""
    out = tmp_path / "out"
    done = call(places, out, "experiment=semeval/ga", "trainer.args.max_steps=3", "trainer.args.learning_rate=0.1")
    assert (done.stopped, done.steps, done.planned) == ("done", 3, 3)
    before, after = load_file(places[0] / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys() and any(not (before[n] == after[n]).all() for n in before)
    assert len(load_tokenizer(str(out), TokenizerArgs())) == len(load_tokenizer(str(places[0]), TokenizerArgs()))
    assert status(out) == {
        "stopped": "done", "steps": 3, "planned": 3, "note": "", "wall_s": status(out)["wall_s"],
    }  # fmt: skip
    assert not [p for p in out.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("name", EXPERIMENTS[1:])
def test_every_experiment_runs(places: tuple[Path, Path, Path], tmp_path: Path, name: str) -> None:
    whole = name in ("ails-ntua", "zjuklab")
    short = "trainer.args.num_train_epochs=1" if whole else "trainer.args.max_steps=2"
    done = call(places, tmp_path / "out", f"experiment=semeval/{name}", short)
    assert done.stopped == "done" and done.steps == done.planned > 0
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_the_iterative_pipeline_watches_validation_rows_and_keeps_the_best(
    places: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    words = ("trainer.args.max_steps=4", "trainer.args.evaluate.steps=2", "trainer.args.evaluate.rule.floor=0")
    done = call(places, tmp_path / "out", *words)
    points = [json.loads(line) for line in (tmp_path / "out" / "logs" / "trajectory.jsonl").read_text().splitlines()]
    assert [p["step"] for p in points] == [0, 2, 4]
    assert all(0 < p[f"{side}_validation_Prob"] < 1 for p in points for side in ("forget", "retain"))
    assert done.steps == min(points[1:], key=lambda p: p["forget_validation_Prob"])["step"]


def test_the_last_line_names_the_best_model_of_a_whole_run() -> None:
    done = semeval.Submission(Path("out"), "done", steps=2, planned=4, wall_s=9.0, note="")
    assert _summary(done).startswith("written: out: the best model after 2 of 4 steps; all steps done")
    last = dataclasses.replace(done, steps=4)
    assert _summary(last).startswith("written: out: the model after 4 of 4 steps; all steps done")
    cut = dataclasses.replace(done, stopped="time")
    assert _summary(cut).startswith("written: out: the model after 2 of 4 steps; stopped by the time limit")


class _Slow(Budget):
    """A budget whose clock goes on by ten seconds each time it is read."""

    now = 0.0

    def __init__(self, limit_s: float | None, **_: Any) -> None:
        super().__init__(limit_s, clock=self._tick)

    def _tick(self) -> float:
        self.now += 10
        return self.now


def test_the_time_limit_ends_a_run(
    places: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semeval, "Budget", _Slow)
    done = call(
        places, tmp_path / "out", "experiment=semeval/gd", "trainer.args.num_train_epochs=500", time_limit="10m"
    )
    assert done.stopped == "time" and 0 < done.steps < done.planned == 750 and done.wall_s < 600
    assert status(tmp_path / "out")["steps"] == done.steps


def test_the_hard_end_leaves_the_last_model(
    places: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last saved model is the result. It is an error if nothing was learned before the limit."""
    monkeypatch.setattr(semeval, "SAVE_SHARE", 0)

    def ring_after(n_steps: int) -> Callable[[semeval.SubmissionProgress], None]:
        def on_progress(progress: semeval.SubmissionProgress) -> None:
            if progress.step > n_steps:
                raise semeval.TimeLimitExceeded

        return on_progress

    words = ("experiment=semeval/gd", "trainer.args.max_steps=9")
    done = call(places, tmp_path / "a", *words, save_every=1e-9, on_progress=ring_after(4))
    assert (done.stopped, done.steps) == ("time", 4) and "time limit" in done.note
    assert not (tmp_path / "a" / ".work").exists()
    with pytest.raises(JobError, match=r"within the time limit; .* contains the initial model.*, or shorter steps"):
        call(places, tmp_path / "b", *words, time_limit="1h", on_progress=ring_after(0))
    assert load_file(tmp_path / "b" / "model.safetensors").keys()  # the given model
    assert (status(tmp_path / "b")["stopped"], status(tmp_path / "b")["steps"]) == ("time", 0)
    assert "no model of a step was saved" in status(tmp_path / "b")["note"]


def test_a_hard_end_during_the_imports_is_written_down(
    places: tuple[Path, Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = SubmissionFolder(tmp_path / "out")
    assert output.start_with(str(places[0]))
    assert status(output.folder)["stopped"] == "running"
    assert semeval_arguments._nothing(output.folder) == 1
    assert (status(output.folder)["stopped"], status(output.folder)["steps"]) == ("time", 0)
    error = capsys.readouterr().err
    assert "contains the initial model. The limit ended while" in error and error.endswith("longer --time-limit\n")
    assert semeval_arguments._nothing(tmp_path / "none") == 1
    assert "contains no model" in capsys.readouterr().err


def test_a_shipped_name_selects_its_model_and_template(places: tuple[Path, Path, Path]) -> None:
    _, forget, retain = places
    tree, _ = _tree("unlearn", "SmolLM2-135M-Instruct", forget, retain, None, ["experiment=semeval/gd"])
    assert tree["model"]["model_args"]["pretrained_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert tree["model"]["template_args"]["apply_chat_template"] is True


def test_a_loss_that_runs_away_at_once_is_written_down(places: tuple[Path, Path, Path], tmp_path: Path) -> None:
    words = ("experiment=semeval/ga", "trainer.args.max_steps=9", "trainer.args.max_loss=0.1")
    with pytest.raises(JobError, match=r"passed the limit of 0.1"):
        call(places, tmp_path / "out", *words)
    end = status(tmp_path / "out")
    assert (end["stopped"], end["steps"]) == ("guard", 0) and "passed the limit" in end["note"]


def test_the_guard_keeps_the_last_model_before_the_loss_ran_away(
    places: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semeval, "SAVE_SHARE", 0)
    # the loss of a random model is log 512 = 6.2, and ascent takes it away from 0
    words = ("experiment=semeval/ga", "trainer.args.max_steps=60", "trainer.args.learning_rate=0.5")
    done = call(places, tmp_path / "a", *words, "trainer.args.max_loss=9", save_every=1e-9)
    assert done.stopped == "guard" and 0 < done.steps < 60 and "passed the limit" in done.note
    with pytest.raises(JobError, match="passed the limit"):
        call(places, tmp_path / "b", *words, "trainer.args.max_loss=0.1")


def test_a_whole_model_lies_there_wherever_a_save_is_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("config.json", "model.safetensors", "tokenizer.json")

    def write(text: str) -> Callable[[Path], object]:
        return lambda part: [(part / name).write_text(text) for name in names]

    rename = os.replace
    for broken_at in range(4):
        output = semeval.SubmissionFolder(tmp_path / str(broken_at))
        output.fill(write("old"), {})
        moved: list[str] = []

        def replace(source: Any, target: Any, moved: list[str] = moved, at: int = broken_at) -> None:
            if Path(source).suffix != ".tmp":  # which is how a single file is written
                if len(moved) == at:
                    raise OSError("killed")
                moved.append(Path(target).name)
            rename(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            with pytest.raises(OSError, match="killed"):
                output.fill(write("new"), {})
        assert (output.folder / "model.safetensors").read_text() == "old"
        assert all((output.folder / name).is_file() for name in names)
        assert "model.safetensors" not in moved, "the weights come last"


@pytest.mark.slow
def test_the_command_and_its_scores(places: tuple[Path, Path, Path], expunge: Run, here: Path) -> None:
    model, forget, retain = places
    for part in ("dev", "test"):
        (here / "mmlu" / part).mkdir(parents=True)
        (here / "mmlu" / part / f"anatomy_{part}.csv").write_text(
            "question,choice0,choice1,choice2,choice3,answer\n" + "Which?,a,b,c,d,1\n" * 2
        )
    code, out, err = expunge(
        "semeval", "--model", str(model), "--forget", str(forget), "--retain", str(retain), "--out", "sub", "--score",
        "--time-limit", "10m", "experiment=semeval/gd", "trainer.args.max_steps=1", *FAST,
        "--mmlu", "mmlu", "data.args.mmlu_shots=0", "data.args.mmlu_limit=1",
    )  # fmt: skip
    assert code == 0, err
    assert (
        len(json.loads((here / "sub" / "evals" / "LUME_EVAL.json").read_text())["mmlu_anatomy"]["value_by_index"]) == 1
    )
    assert "written: sub: the model after 1 of 1 steps; all steps done" in out
    summary = json.loads((here / "sub" / "evals" / "LUME_SUMMARY.json").read_text())
    assert 0 <= summary["task_aggregate"] <= 1 and summary["semeval_aggregate"] is None
    assert "retain_Task3_knowledge" in out and "no membership documents were given" in out


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        ({"--model": "./nowhere"}, (), "no folder ./nowhere"),
        ({"--model": "llama-64k"}, (), "--model: llama-64k is the shape of a model from scratch and has no weights"),
        ({}, ("save_steps=3",), "save_steps: unknown key; write trainer.args.save_steps"),
        ({"--forget": "nowhere"}, (), "forget rows: nowhere is no folder"),
        ({"--out": "."}, (), "--out: . is not empty"),
        ({"--time-limit": "soon"}, (), "--time-limit: must be a time above 0, such as 1h"),
        ({"--save-every": "0s"}, (), "--save-every: must be a time above 0"),
        ({"--validation": "./nowhere"}, (), "nowhere"),
        ({}, ("data.args.mmlu_shots=0",), "mmlu_shots and mmlu_max_length need mmlu, the folder"),
        ({"--mmlu": "x"}, (), "--mmlu: only used for the scores; give --score"),
        ({}, ("experiment=semeval/zjulab",), "did you mean 'semeval/zjuklab'"),
        ({}, ("experiment=unlearn/semeval/default", "trainer=WHP"), "trainer=WHP: needs a second model"),
        ({}, ("benchmark=world",), "benchmark=world: `expunge semeval` reads"),
        ({}, ("experiment=semeval/zjuklab", "trainer.merge.handler=noise"), "noise merges no models"),
        (
            {},
            ("experiment=semeval/zjuklab", "trainer.merge.method_args.weights=[1]"),
            "trainer.merge.method_args.weights: 1 given for 2 models",
        ),
        ({}, ("experiment=semeval/zjuklab", "trainer.parts=[]"), "trainer.merge: needs parts"),
    ],
)
def test_wrong_input_is_one_line(
    places: tuple[Path, Path, Path],
    expunge: Run,
    here: Path,
    change: dict[str, str],
    words: tuple[str, ...],
    message: str,
) -> None:
    (here / "x").mkdir()
    model, forget, retain = (str(p) for p in places)
    options = {"--model": model, "--forget": forget, "--retain": retain, "--out": "out"} | change
    code, out, err = expunge("semeval", *(w for pair in options.items() for w in pair), *words)
    assert code == 2, err
    assert err.count("\n") == 1 and message in err and not out
    assert not (here / "out").exists()


@pytest.mark.slow
def test_merged_runs_are_single_jobs_too(places: tuple[Path, Path, Path], expunge: Run, here: Path) -> None:
    model, forget, retain = places
    (here / "data").mkdir()
    pq.write_table(pq.read_table(forget / "forget.parquet"), here / "data" / "forget.parquet")
    (here / "data" / "retain.jsonl").write_text((retain / "retain.jsonl").read_text())
    os.symlink(model, here / "model")
    words = (
        "unlearn", "experiment=semeval/zjuklab", "task_name=z", "forget_split=all", "data.root=data",
        "model.model_args.pretrained_model_name_or_path=./model", "trainer.args.num_train_epochs=1", *FAST,
    )  # fmt: skip
    code, _, err = expunge(*words)
    assert code == 0, err
    assert (here / "saves" / "unlearn" / "z" / "model.safetensors").is_file()
    assert sorted(p.name.rpartition("-")[0] for p in (here / "saves" / "store" / "unlearn").iterdir()) == [
        "z-model1", "z-model2",
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["mia", "mmlu"])
def test_optional_inputs_are_checked_before_the_run(
    places: tuple[Path, Path, Path], tmp_path: Path, expunge: Run, key: str
) -> None:
    model, forget, retain = map(str, places)
    out = tmp_path / "out"
    words = ("--model", model, "--forget", forget, "--retain", retain, "--out", str(out), "--score")
    code, _, message = expunge("semeval", *words, f"--{key}", str(tmp_path / "nope"))
    assert code == 2 and f"--{key}: no folder" in message and not out.exists()


def test_the_names_of_the_participants_script(expunge: Run, places: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """The paths by its names, with files; validation of both sides; each third step stays usable; idle words named."""
    model, forget, retain = places
    out = tmp_path / "out"
    code, _, err = expunge(
        "semeval", "--input_model_path", str(model), "--forget_set", str(forget / "forget.parquet"), "--retain_set",
        str(retain / "retain.jsonl"), "--forget_val_set", str(forget), "--retain_val_set", str(retain),
        "--output_model_path", str(out),
        "trainer.args.max_steps=4", "trainer.args.evaluate.steps=2", "trainer.args.save_steps=3",
        "data.args.template=input_output", "model.template_args.user_start_tag=Q", "forget_split=train",
        "eval.split=all", "task_name=x", *FAST,
    )  # fmt: skip
    assert code == 0, err
    for key in ("model.template_args.user_start_tag", "forget_split", "eval.split", "task_name"):
        assert f"note: {key} has no effect" in err
    checkpoint = out / "checkpoint-3"
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["checkpoint-3", "logs"]
    assert load_file(checkpoint / "model.safetensors") and (checkpoint / "tokenizer.json").is_file()
    points = [json.loads(line) for line in (out / "logs" / "trajectory.jsonl").read_text().splitlines()]
    assert {"forget_validation_Prob", "retain_validation_Prob"} <= points[-1].keys()


def test_a_row_that_is_too_long_to_validate_ends_before_training(
    places: tuple[Path, Path, Path], expunge: Run, here: Path
) -> None:
    model, forget, retain = map(str, places)
    row = rows_of("forget")[0]
    (here / "long").mkdir()
    (here / "long" / "forget.jsonl").write_text(json.dumps(row | {"input": "z " * 600, "output": "gold"}) + "\n")
    paths = ("--model", model, "--forget", forget, "--retain", retain, "--out", "out", "--forget-validation", "long")
    words = ("--retain-validation", retain, "trainer.args.evaluate.steps=9")
    code, out, err = expunge("semeval", *paths, *words, *FAST)
    assert code == 2 and err.count("expunge: error:") == 1 and "step" not in out
    assert "forget_validation row 0: " in err and "no answer token is left" in err
    assert not (here / "out" / "model.safetensors").exists()


def test_a_document_that_is_too_long_to_score_ends_before_training(
    places: tuple[Path, Path, Path], expunge: Run, here: Path
) -> None:
    model, forget, retain = map(str, places)
    (here / "mia").mkdir()
    for name in ("member", "nonmember"):
        row = {"id": "1", "document": f"{name} " + "z " * 2000}  # the model has 1024 positions
        (here / "mia" / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    paths = ("--model", model, "--forget", forget, "--retain", retain, "--out", "out", "--score", "--mia", "mia")
    code, out, err = expunge("semeval", *paths, "model.template_args.max_length=9000", *FAST)
    assert code == 2 and err.count("expunge: error:") == 1 and "step" not in out
    assert "member row 0: 'answer' with its question has" in err and "the model's context is 1024" in err
    assert not (here / "out").exists()


def test_validation_needs_both_sides(expunge: Run, places: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, forget, retain = places
    code, _, err = expunge(
        "semeval", "--model", str(model), "--forget", str(forget), "--retain", str(retain), "--out",
        str(tmp_path / "o"), "--forget-validation", str(forget),
    )  # fmt: skip
    assert code == 2 and "--retain-validation: missing" in err


@pytest.mark.slow
def test_a_run_with_a_limit_ends_without_the_clean_up_of_libraries(
    places: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """A library that cleans up for an hour does not delay the end, and the exit code stays."""
    slow = "import atexit, time; atexit.register(time.sleep, 3600)"
    model, forget, retain = map(str, places)
    command = ["semeval", "--model", model, "--forget", forget, "--retain", retain, "--out", str(tmp_path / "out")]
    command += ["--time-limit", "10m", "experiment=semeval/gd", "trainer.args.max_steps=1", *FAST]
    code = f"{slow}; from expunge.cli.main import main; raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "written: " in done.stdout
