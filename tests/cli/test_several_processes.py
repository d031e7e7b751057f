"""Commands under a launcher of several processes, and what helps to plan them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file
from tests.warm import Warm

from expunge.core.distributed import Rank

Run = Callable[..., tuple[int, str, str]]
SMALL = (
    "unlearn", "experiment=unlearn/tofu/default", "forget_split=forget10", "retain_split=retain90", "trainer=GradDiff",
    "model=llama-64k", "task_name=gd", "eval.generation.max_new_tokens=4", "trainer.args.num_train_epochs=2",
    "trainer.args.per_device_train_batch_size=1", "trainer.args.eval_strategy=no",
    "trainer.args.bf16=false",  # the experiment asks for it, and some CPUs have it
)  # fmt: skip


def test_studies_are_for_one_process(expunge: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    code, _, errors = expunge("run", "study=quickstart")
    assert code == 2
    assert errors.startswith("expunge: error: run: runs in one process; commands for several processes: train")
    monkeypatch.setenv("RANK", "1")
    assert expunge("run", "study=quickstart") == (2, "", "")


@pytest.mark.parametrize("name", ["ddp", "ddp_cpu", "fsdp2", "fsdp2_cpu", "zero2", "zero3"])
def test_launch_configurations_lie_with_the_package(expunge: Run, name: str) -> None:
    code, out, _ = expunge("launch-config", name)
    assert code == 0
    content = yaml.safe_load(Path(out.strip()).read_text())
    assert content["mixed_precision"] == "no"  # trainer.args.bf16 says, and counts in the fingerprint
    assert "bf16" not in content and "gradient_accumulation_steps" not in content


def test_an_unknown_configuration(expunge: Run) -> None:
    code, _, errors = expunge("launch-config", "dpp")
    assert code == 2 and "no configuration named 'dpp'; did you mean 'ddp'" in errors


def test_memory_on_paper(expunge: Run) -> None:
    words = ("Llama-3.1-8B", "bf16=true", "activation_checkpointing=true", "lora.r=16")
    code, out, errors = expunge("memory", "--processes", "8", *words)
    assert code == 0, errors
    assert [line.split()[0] for line in out.splitlines()[2:6]] == ["ddp", "fsdp2", "zero2", "zero3"]
    assert "8.03G parameters" in out
    assert expunge("memory", "Llama-3.1-8B", "lora.rr=16")[0] == 2
    assert "is not a setting" in expunge("memory", "Llama-3.1-8B", "bf16")[2]


def test_a_word_where_deepspeed_is_missing(expunge: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.cli.distributed_launch.find_spec", lambda name: None)
    monkeypatch.setattr("expunge.cli.commands.memory.find_spec", lambda name: None)
    code, out, errors = expunge("launch-config", "zero3")
    assert code == 0 and Path(out.strip()).is_file()
    assert errors == "expunge: note: zero3 needs DeepSpeed, which is not installed: pip install 'expunge[deepspeed]'\n"
    assert expunge("launch-config", "fsdp2")[2] == ""
    report = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_DEEPSPEED": "true"}
    for name, value in report.items():
        monkeypatch.setenv(name, value)
    code, _, errors = expunge(*SMALL)
    assert code == 2
    assert errors.startswith("expunge: error: unlearn: the launcher requests DeepSpeed, which is not installed: pip")
    monkeypatch.setenv("RANK", "1")
    assert expunge(*SMALL) == (2, "", "")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("trainer.args.optim=adafactor", "trainer.args.optim: adafactor cannot train a model in FSDP's shards"),
        ("trainer=RMU", "RMU reads hidden states of layers, which a model in shards cannot give"),
        ("trainer.args.grad_transform=sam", "grad_transform runs in one process"),
        ("model.model_args.device_map=auto", "model.model_args.device_map: spreads a model over the devices of one"),
    ],
)
def test_what_shards_cannot_do_is_refused_before_a_weight_is_read(
    expunge: Run, tofu_source: Path, monkeypatch: pytest.MonkeyPatch, word: str, message: str
) -> None:
    monkeypatch.setattr("expunge.core.distributed.here", lambda: Rank(0, 2))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    code, _, err = expunge(*SMALL, f"data.root={tofu_source}", word)
    assert code != 0
    assert err.startswith(f"expunge: error: {message}")
    assert not Path("saves").exists()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


LEAVING = """
import argparse, atexit, sys
from expunge.cli.distributed_launch import run_distributed
class Held:
    def __del__(self): print("cleaned up", flush=True)
sys.held = Held()
atexit.register(print, "registered function")
run_distributed(argparse.Namespace(mode="eval", command=lambda *_: 3), ["eval"])
"""


def test_a_process_of_a_launch_leaves_without_cleaning_up_objects() -> None:
    """Communication threads of a sharded model that still run during the clean-up abort some processes."""
    port = free_port()
    env = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "WORLD_SIZE": "1"}
    done = subprocess.run([sys.executable, "-c", LEAVING], env=env, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (3, "registered function\n"), done.stderr


def start(here: Path, processes: int, *words: str, config: str = "ddp_cpu") -> subprocess.CompletedProcess[str]:
    port = free_port()
    file = subprocess.run(
        [sys.executable, "-m", "expunge", "launch-config", config], capture_output=True, text=True, check=True
    ).stdout.strip()  # fmt: skip
    content = here / "launch.yaml"
    content.write_text(yaml.safe_dump({**yaml.safe_load(Path(file).read_text()), "use_cpu": True}))
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(content))
    numbers = ("--num_processes", str(processes), "--main_process_port", str(port), "-m", "expunge")
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run([*launcher, *numbers, *words], cwd=here, env=env, capture_output=True, text=True, timeout=280)


def forked(warm: Warm, here: Path, *words: str) -> list[subprocess.CompletedProcess[str]]:
    """The ends of two processes that have the settings of a launcher."""
    port = str(free_port())
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    with ThreadPoolExecutor(2) as threads:
        ranks = [os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
        return list(threads.map(lambda rank: warm.run(["-m", "expunge", *words], here, environment=rank), ranks))


@pytest.mark.slow
def test_two_processes_are_one(here: Path, tofu_source: Path, expunge: Run, warm: Warm) -> None:
    """The same job by its key, the same numbers, one console, one store; one failure is one line."""
    data = f"data.root={tofu_source}"
    done = start(here, 2, *SMALL, data, "trainer.args.gradient_accumulation_steps=2", "paths.store=two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("unlearn gd: done") == 1
    two = json.loads((here / "saves/unlearn/gd/evals/TOFU_SUMMARY.json").read_text())
    (here / "saves").rename(here / "before")
    code, _, errors = expunge(*SMALL, data, "trainer.args.gradient_accumulation_steps=4", "paths.store=one")
    assert code == 0, errors
    one = json.loads((here / "saves/unlearn/gd/evals/TOFU_SUMMARY.json").read_text())
    assert [p.name for p in (here / "one/unlearn").iterdir()] == [p.name for p in (here / "two/unlearn").iterdir()]
    assert known(two) == pytest.approx(known(one), rel=1e-4, abs=1e-6)
    assert len(known(one)) > 10

    bad = forked(warm, here, *SMALL, data, "trainer.args.max_loss=1e-9", "paths.output_dir=bad")
    assert all(done.returncode not in (0, -9) for done in bad)
    assert sum(done.stderr.count("expunge: error:") for done in bad) == 1
    assert not (here / "bad").exists()
    refused = forked(warm, here, *SMALL, data, "model.model_args.device_map=auto", "paths.output_dir=bad")
    assert all(done.returncode not in (0, -9) for done in refused)
    errors = "".join(done.stderr for done in refused)
    assert errors.count("expunge: error: model.model_args.device_map: spreads a model over") == 1


def known(values: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


no_deepspeed = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", ["fsdp2_cpu", pytest.param("zero2", marks=no_deepspeed), pytest.param("zero3", marks=no_deepspeed)]
)
def test_models_in_shards_are_as_whole_ones(here: Path, tofu_source: Path, expunge: Run, config: str) -> None:
    """Losses, evaluations on the way, the best weights and the numbers after them, to 1e-4; saved as a plain model.

    16 samples in steps of 6: the last step is an uneven one.
    """
    words = (
        *SMALL, f"data.root={tofu_source}", "trainer.args.num_train_epochs=4", "trainer.args.learning_rate=3e-3",
        "trainer.args.logging_steps=1", "trainer.args.evaluate.steps=1", "trainer.args.evaluate.keep=best",
        "trainer.args.evaluate.rule.floor=0", "trainer.args.evaluate.rule.forget=forget_Q_A_Prob",
    )  # fmt: skip
    steps = "trainer.args.gradient_accumulation_steps"
    done = start(here, 2, *words, f"{steps}=3", "paths.output_dir=two", "paths.store=store_two", config=config)
    assert done.returncode == 0, done.stderr
    code, _, errors = expunge(*words, f"{steps}=6", "paths.output_dir=one", "paths.store=store_one")
    assert code == 0, errors
    for name in ("log.jsonl", "trajectory.jsonl"):
        texts = [(here / d / "evals" / name).read_text() for d in ("one", "two")]
        one, two = ([json.loads(line) for line in text.splitlines()] for text in texts)
        assert len(one) == len(two) >= 3
        for mine, theirs in zip(one, two, strict=True):
            assert known(theirs) == pytest.approx(known(mine), rel=1e-4, abs=1e-6)
    keys = [{p.parent.name for p in (here / f"store_{d}").glob("*/*/job.json")} for d in ("one", "two")]
    assert keys[0] == keys[1]
    models = [transformers.AutoModelForCausalLM.from_pretrained(here / d) for d in ("one", "two")]
    start_of = load_file(next((here / "store_one/base").glob("*/model.safetensors")))
    moved = 0.0
    for (name, mine), theirs in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-6)
        moved = max(moved, float((mine.detach() - start_of[name]).abs().max()))
    assert moved > 1e-3
    one, two = (json.loads((here / d / "evals/TOFU_SUMMARY.json").read_text()) for d in ("one", "two"))
    assert known(two) == pytest.approx(known(one), rel=1e-4, abs=1e-6)
    assert len(known(one)) > 10
