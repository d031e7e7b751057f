"""`expunge memory`: the memory of a training run on each device; `expunge launch-config`: paths of configurations."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from expunge.cli.distributed_launch import NO_DEEPSPEED
from expunge.core.errors import ConfigError, nearest
from expunge.core.terminal import complain, say
from expunge.core.yaml_text import parse_yaml

CONFIGS = Path(__file__).resolve().parents[2] / "conf" / "accelerate"


def add_memory(commands: Any) -> None:
    """Register both commands."""
    text = "estimate the memory of a training run on each device"
    sub = commands.add_parser("memory", help=text, description=f"{text[0].upper()}{text[1:]}. No model is loaded.")
    sub.add_argument("model", help="a model's folder, a preset, or a name such as Llama-3.1-8B")
    sub.add_argument("settings", nargs="*", metavar="key=value", help="of trainer.args: bf16=true lora.r=16")
    sub.add_argument("--processes", type=int, default=1, metavar="N", help="devices (default: 1)")
    sub.add_argument("--length", type=int, default=512, metavar="T", help="tokens of a padded row (default: 512)")
    sub.set_defaults(command=_memory)
    text = "print the path of an accelerate configuration that comes with expunge"
    sub = commands.add_parser("launch-config", help=text, description=f"{text[0].upper()}{text[1:]}.")
    sub.add_argument("name", help="ddp, ddp_cpu, fsdp2, fsdp2_cpu, zero2 or zero3")
    sub.set_defaults(command=_config)


def _config(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    file = CONFIGS / f"{parsed.name}.yaml"
    names = sorted(p.stem for p in CONFIGS.glob("*.yaml"))
    if parsed.name not in names:
        raise ConfigError(f"launch-config: no configuration named {parsed.name!r}{nearest(parsed.name, names)}")
    if parsed.name.startswith("zero") and find_spec("deepspeed") is None:
        complain(f"expunge: note: {parsed.name} needs DeepSpeed, {NO_DEEPSPEED}")
    say(file)
    return 0


def _memory(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from rich.table import Table

    from expunge.core.console import Console
    from expunge.core.decode import decode
    from expunge.pipelines.study_jobs.memory import SCORED, STRATEGIES, GiB, estimate_memory, estimate_scoring, shape_of
    from expunge.training.config import TrainArgs

    for key in ("processes", "length"):
        if getattr(parsed, key) < 1:
            raise ConfigError(f"--{key}: must be at least 1, got {getattr(parsed, key)}")
    shape = shape_of(parsed.model)
    args = decode(TrainArgs, _tree(parsed.settings), where="trainer.args")
    table = Table(box=None, pad_edge=False, header_style="bold", title=f"GiB on each of {parsed.processes} devices")
    for column in ("strategy", "weights", "gradients", "optimizer", "casts", "activations", "logits", "total"):
        table.add_column(column, justify="left" if column == "strategy" else "right")
    for strategy in STRATEGIES if parsed.processes > 1 else STRATEGIES[:1]:
        m = estimate_memory(shape, args, strategy, processes=parsed.processes, length=parsed.length)
        table.add_row(strategy, *(f"{v / GiB:.2f}" for v in (*vars(m).values(), m.total)))
    for kind in SCORED:
        m = estimate_scoring(shape, kind, length=parsed.length)
        table.add_row(kind, *(f"{v / GiB:.2f}" for v in (*vars(m).values(), m.total)))
    console = Console()
    console.print(table)
    console.print(f"{SCORED[0]} to {SCORED[-1]}: evaluation by kind of records, all weights on each device, in float32")
    console.print(f"{shape.parameters / 1e9:.2f}G parameters; an estimate, not measured: leave a fifth free")
    return 0


def _tree(words: Sequence[str]) -> dict[str, Any]:
    """`lora.r=16` as nested settings, the values as YAML reads them."""
    tree: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.removeprefix("trainer.args.").partition("=")
        if not equals or not key:
            raise ConfigError(f"memory: {word!r} is not a setting (write key=value, such as bf16=true)")
        *parents, last = key.split(".")
        at = tree
        for parent in parents:
            at = at.setdefault(parent, {})
            if not isinstance(at, dict):
                raise ConfigError(f"memory: {word!r}: {parent} has a value of its own already")
        at[last] = parse_yaml(value, f"memory: {word!r}: the value")
    return tree
