"""`expunge inside`: what a model still holds, layer by layer, beside its two controls; as a table, JSON and parquet."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from expunge.data.rows import RowSet
    from expunge.inside.reading import Reading
    from expunge.inside.result import Result
    from expunge.study.setting import Setting

ROLES = ("model", "full", "retain")
Column = Mapping[Any, float]  # by layer; None: all that is in no layer


@dataclasses.dataclass(frozen=True)
class Looking:
    """What a look reads: rows of one set, those of another to tell them from, and the models by role as needed."""

    load: Callable[[str], Any]
    roles: tuple[str, ...]
    read: Reading
    other: Callable[[], Reading]


@dataclasses.dataclass(frozen=True)
class Seen:
    """results: by file name. columns: by head, a number for each layer."""

    results: Mapping[str, Result]
    columns: Mapping[str, Column]
    line: str = ""


def add_inside(commands: Any) -> None:
    """Add `inside` to the commands of a parser."""
    text = "look into a model's layers: lens, probe, depth, drift, cka"
    sub = commands.add_parser("inside", help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
    sub.add_argument("what", choices=sorted(LOOKS), help="; ".join(f"{k}: {v[1]}" for k, v in sorted(LOOKS.items())))
    sub.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="the benchmark, as of `expunge eval`; model=NAME for its template",
    )
    sub.add_argument("--model", required=True, metavar="DIR", help="the model to look into")
    sub.add_argument("--full", metavar="DIR", help="the control that knows")
    sub.add_argument("--retain", metavar="DIR", help="the control that never learned")
    sub.add_argument("--rows", metavar="SET", help="which of the benchmark's sets (default: its forget set)")
    sub.add_argument("--against", metavar="SET", help="probe: the set its rows are told from (default: its retain set)")
    sub.add_argument("--n", type=int, default=200, help="rows of each set at most (default: %(default)s)")
    sub.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new or empty folder")
    sub.set_defaults(command=_inside, plugin=[])


def _inside(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.cli.compose import single_tree
    from expunge.inside.reading import reading
    from expunge.inside.result import write
    from expunge.models.config import check_source
    from expunge.study.config import decode_task
    from expunge.study.settle import setting_of
    from expunge.study.single import Single
    from expunge.study.worker import quiet

    if parsed.out.exists() and (not parsed.out.is_dir() or any(parsed.out.iterdir())):
        raise ConfigError(f"--out: {parsed.out} already holds something; name a new or empty folder")
    if parsed.n < 1:
        raise ConfigError(f"--n: must be at least 1, got {parsed.n}")
    look, _, needs = LOOKS[parsed.what]
    for role in needs:
        if getattr(parsed, role) is None:
            raise ConfigError(f"--{role}: missing; {parsed.what} reads that model, too")
    sources = {role: getattr(parsed, role) for role in ROLES if getattr(parsed, role) is not None}
    for role, source in sources.items():
        check_source(source, f"--{role}")
    plain = [] if any(w.startswith(("model=", "experiment=")) for w in parsed.overrides) else ["model=llama-1m"]
    words = [
        *plain,
        *parsed.overrides,
        "task_name=inside",
        f"model.model_args.pretrained_model_name_or_path={parsed.model}",
    ]
    task = decode_task(Single, single_tree("eval", words)[0])
    setting = setting_of(task)
    quiet()
    encoder = setting.encoder(parsed.model)
    rows = parsed.rows or setting.benchmark.forget_set
    against = parsed.against or setting.benchmark.retain_set

    def first(name: str, option: str) -> Reading:
        return reading(_cut(setting, name, parsed.n, option), encoder)

    seen = look(
        Looking(
            load=lambda role: _load(sources[role], setting),
            roles=tuple(sources),
            read=first(rows, "--rows"),
            other=lambda: first(against, "--against"),
        )
    )
    parsed.out.mkdir(parents=True, exist_ok=True)
    for name, result in seen.results.items():
        write(parsed.out, name, result)
    _print(seen)
    print(f"written: {parsed.out}")
    return 0


def _cut(setting: Setting, name: str, n: int, option: str) -> RowSet:
    sets = setting.benchmark.sets
    if name not in sets:
        raise ConfigError(f"{option}: no set named {name!r}{nearest(name, sets)}")
    return dataclasses.replace(sets[name], rows=sets[name].rows[:n])


def _load(source: str, setting: Setting) -> Any:
    from expunge.models.load import load_model, pick_device

    return load_model(source, setting.model.model_args, device=pick_device(setting.model.device))


def _lens(looking: Looking) -> Seen:
    from expunge.inside.lens import lens_scores

    found = {role: lens_scores(looking.load(role), looking.read) for role in looking.roles}
    columns = {f"log p, {role}": dict(zip(r.layers, r.logp, strict=True)) for role, r in found.items()}
    return Seen({f"lens_{role}": r for role, r in found.items()}, columns)


def _probe(looking: Looking) -> Seen:
    from expunge.inside.hidden import hidden_states
    from expunge.inside.probe import compare, probe

    mine, other = looking.read, looking.other()
    whole = dataclasses.replace(
        mine, rows=(*mine.rows, *other.rows), row_ids=tuple(range(len(mine.rows) + len(other.rows)))
    )
    labels = {"forget": [True] * len(mine.rows) + [False] * len(other.rows)}
    found = {role: probe(hidden_states(looking.load(role), whole, at="last"), labels) for role in looking.roles}
    results: dict[str, Any] = {f"probe_{role}": r for role, r in found.items()}
    columns = {f"AUC, {role}": {line.layer: line.auc for line in r.lines} for role, r in found.items()}
    if {"full", "retain"} <= set(found):
        results["probe_kept"] = compare(found["model"], found["full"], found["retain"])
        columns["kept"] = {line.layer: line.kept for line in results["probe_kept"].lines}
    return Seen(results, columns)


def _depth(looking: Looking) -> Seen:
    from expunge.inside.depth import unlearning_depth

    full, retain, model = (looking.load(role) for role in ("full", "retain", "model"))
    found = unlearning_depth(full, retain, model, looking.read)
    scored = f"{found.n_scored} of {found.n_rows} rows"
    if math.isnan(found.value):
        return Seen({"depth": found}, {"erased": found.by_layer}, f"unlearning depth: no number: {found.reason}")
    line = f"unlearning depth {found.value:.3f} [{found.ci_low:.3f}, {found.ci_high:.3f}] over {scored}"
    return Seen({"depth": found}, {"erased": found.by_layer}, f"{line} (0: intact, 1: erased)")


def _drift(looking: Looking) -> Seen:
    from expunge.inside.weights import weight_drift

    found = weight_drift(looking.load("model"), looking.load("full"))
    whole = {line.layer: line.relative for line in found.lines if line.module == ""}
    return Seen({"drift": found}, {"relative drift": whole})


def _cka(looking: Looking) -> Seen:
    from expunge.inside.similarity import compare_layers

    found = compare_layers(looking.load("model"), looking.load("full"), looking.read)
    return Seen({"cka": found}, {"CKA with full": {line.layer: line.cka for line in found.lines}})


Look = tuple[Callable[[Looking], Seen], str, tuple[str, ...]]
LOOKS: Mapping[str, Look] = {
    "lens": (_lens, "log p of the answers as each layer tells it", ()),
    "probe": (_probe, "are the rows told from others by a linear probe", ()),
    "depth": (_depth, "unlearning depth score, by activation patching", ("full", "retain")),
    "drift": (_drift, "how far the weights moved from the full model's", ("full",)),
    "cka": (_cka, "likeness of the states to the full model's", ("full",)),
}


def _print(seen: Seen) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for k, head in enumerate(("layer", *seen.columns)):
        shown.add_column(head, justify="right" if k else "left")
    layers = sorted(
        {layer for column in seen.columns.values() for layer in column}, key=lambda x: -1 if x is None else x
    )
    for layer in layers:
        values = [column.get(layer, math.nan) for column in seen.columns.values()]
        shown.add_row(
            "others" if layer is None else str(layer), *("-" if math.isnan(v) else f"{v:.4f}" for v in values)
        )
    Console().print(shown)
    if seen.line:
        print(seen.line)
