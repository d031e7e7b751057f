"""`expunge inspect`: the contents of a model by layer, next to its controls; how examples become tokens."""

from __future__ import annotations

import argparse
import dataclasses
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.core.errors import ConfigError, nearest
from expunge.core.terminal import complain, say

if TYPE_CHECKING:
    from expunge.data.encoder import Encoder
    from expunge.interpretability.inputs import AnalysisInputs
    from expunge.interpretability.result import AnalysisResult
    from expunge.pipelines.study.task_context import TaskContext

TEMPLATE = "template"
PAGE = "inspect.html"
ROLES = ("model", "full", "retain")
Column = Mapping[Any, float]  # by layer (None: the rest of the model), or by `InspectInputs.index`
TOKEN_ROWS = 4  # rows of `lens` with a map of layers by tokens
COUNTS = (1, 10, 100, 1_000, 10_000, 100_000)  # of weights that `prune` moves


@dataclasses.dataclass(frozen=True)
class InspectCommand:
    """Inputs of an analysis: the rows of two sets, and a loader of the models by role.

    names: the names of the two sets. tokenizer: the tokenizer of all models.
    """

    load: Callable[[str], Any]
    roles: tuple[str, ...]
    read: AnalysisInputs
    other: Callable[[], AnalysisInputs]
    names: tuple[str, str]
    tokenizer: Any


@dataclasses.dataclass(frozen=True)
class InspectInputs:
    """results: by file name. columns: by head, a number for each layer, or for each `index`."""

    results: Mapping[str, AnalysisResult]
    columns: Mapping[str, Column]
    line: str = ""
    index: str = "layer"


def add_inspect(commands: Any) -> None:
    """Add `inspect`, and its older name `inside`, to the commands of a parser."""
    for name in ("inspect", "inside"):
        text = (
            f"look into a model: {', '.join((TEMPLATE, *LOOKS))}" if name == "inspect" else "the older name of inspect"
        )
        sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
        analyses = "; ".join(f"{k}: {v[1]}" for k, v in sorted(LOOKS.items()))
        sub.add_argument(
            "what",
            metavar="WHAT",
            choices=(TEMPLATE, *sorted(LOOKS)),
            help=f"{TEMPLATE}: how an example becomes tokens; {analyses}",
        )
        sub.add_argument(
            "overrides",
            nargs="*",
            metavar="key=value",
            help="the benchmark, as of `expunge eval`; model=NAME for its template",
        )
        sub.add_argument("--model", required=True, metavar="DIR", help="the model to look into")
        sub.add_argument("--full", metavar="DIR", help="the control that knows the rows")
        sub.add_argument("--retain", metavar="DIR", help="the control that never saw the rows")
        sub.add_argument("--rows", metavar="SET", help="which of the benchmark's sets (default: its forget set)")
        sub.add_argument(
            "--compare-with",
            dest="against",
            metavar="SET",
            help="probe, path, prune: the other set (default: its retain set)",
        )
        sub.add_argument("--n", type=int, default=200, help="rows of each set at most (default: %(default)s)")
        sub.add_argument("--out", type=Path, metavar="DIR", help="a new or empty folder (not for template)")
        sub.set_defaults(command=_inspect, name=name)


def _inspect(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Run an analysis. `inspect template` only prints; every other analysis also writes a folder."""
    if parsed.what != TEMPLATE and parsed.out is None:
        raise ConfigError("--out: missing; name a new or empty folder")
    code = _template(parsed) if parsed.what == TEMPLATE else _inside(parsed, words)
    if parsed.name == "inside":
        complain("note: `expunge inside` is now `expunge inspect`")
    return code


def _template(parsed: argparse.Namespace) -> int:
    """Print one example as tokens, its scored positions, and notes on the template. Reads no weights."""
    from expunge.data.examples import Example, ExampleSet
    from expunge.models.config import check_source
    from expunge.pipelines.study.template_example import template_lines, template_notes

    check_source(parsed.model, "--model")
    named = any(word.startswith(("benchmark=", "experiment=", "forget=")) for word in parsed.overrides)
    setting = _setting(parsed, () if named else ("benchmark=world",))
    encoder = setting.encoder(parsed.model)
    rows = setting.benchmark.sets.get(parsed.rows or setting.benchmark.forget_set)
    if not named and parsed.rows is None:
        rows = ExampleSet("example", (Example(0, "Who wrote the red book?", {"answer": "Ana Silva wrote it."}),))
    if not isinstance(rows, ExampleSet):
        raise ConfigError(f"--rows: no set named {parsed.rows!r}{nearest(str(parsed.rows), setting.benchmark.sets)}")
    notes = template_notes(encoder, [rows])
    for line in (*template_lines(encoder, rows), *(f"note: {note}" for note in notes)):
        say(line)
    return 0


def _setting(parsed: argparse.Namespace, extra: Sequence[str] = ()) -> TaskContext:
    """Return the task that the words name, with the model's own template unless a shipped model is named."""
    from expunge.cli.compose import single_tree
    from expunge.pipelines.study.resolve_task import resolve_task
    from expunge.pipelines.study.single_config import SingleJob
    from expunge.pipelines.study.task_config import decode_task

    plain = [] if any(w.startswith(("model=", "experiment=")) for w in parsed.overrides) else ["model=llama-1m"]
    source = f"model.model_args.pretrained_model_name_or_path={parsed.model}"
    words = [*plain, *extra, *parsed.overrides, "task_name=inspect", source]
    return resolve_task(decode_task(SingleJob, single_tree("eval", words)[0]))


def _inside(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.core.terminal import quiet
    from expunge.interpretability.result import write
    from expunge.models.config import check_source

    if parsed.out.exists() and (not parsed.out.is_dir() or any(parsed.out.iterdir())):
        raise ConfigError(f"--out: {parsed.out} is not empty; name a new or empty folder")
    if parsed.n < 1:
        raise ConfigError(f"--n: must be at least 1, got {parsed.n}")
    look, _, needs = LOOKS[parsed.what]
    for role in needs:
        if getattr(parsed, role) is None:
            raise ConfigError(f"--{role}: missing; {parsed.what} reads that model, too")
    sources = {role: getattr(parsed, role) for role in ROLES if getattr(parsed, role) is not None}
    for role, source in sources.items():
        check_source(source, f"--{role}")
    setting = _setting(parsed)
    quiet()
    encoder = setting.encoder(parsed.model)
    rows = parsed.rows or setting.benchmark.forget_set
    against = parsed.against or setting.benchmark.retain_set

    def first(name: str, option: str) -> AnalysisInputs:
        return _first(setting, name, parsed.n, option, encoder)

    seen = look(
        InspectCommand(
            load=lambda role: _load(sources[role], setting, encoder),
            roles=tuple(sources),
            read=first(rows, "--rows"),
            other=lambda: first(against, "--compare-with"),
            names=(rows, against),
            tokenizer=encoder.tokenizer,
        )
    )
    parsed.out.mkdir(parents=True, exist_ok=True)
    for name, result in seen.results.items():
        write(parsed.out, name, result)
    from expunge.core.files import write_text
    from expunge.report.inspect_page import inspect_page

    about = LOOKS[parsed.what][1]
    command = shlex.join(["expunge", *words])
    page = inspect_page(
        parsed.what, about[0].upper() + about[1:], seen.index, seen.columns, seen.results, seen.line, command
    )
    write_text(parsed.out / PAGE, page)
    _print(seen)
    say(f"written: {parsed.out}; open {parsed.out / PAGE} for its figures")
    return 0


def _first(setting: TaskContext, name: str, n: int, option: str, encoder: Encoder) -> AnalysisInputs:
    """Return the first n rows of a set, as token ids."""
    from expunge.data.stories.shards import TokenDataset
    from expunge.interpretability.inputs import AnalysisInputs, analysis_inputs

    sets = setting.benchmark.sets
    if name not in sets:
        raise ConfigError(f"{option}: no set named {name!r}{nearest(name, sets)}")
    rows = sets[name]
    if isinstance(rows, TokenDataset):  # these rows are tokens already
        rows.check_tokenizer(encoder.tokenizer)
        return AnalysisInputs(tuple(rows.documents[:n]), int(encoder.tokenizer.pad_token_id))
    return analysis_inputs(dataclasses.replace(rows, rows=rows.rows[:n]), encoder)


def _load(source: str, setting: TaskContext, encoder: Encoder) -> Any:
    from expunge.evaluation.passport import load_checked
    from expunge.evaluation.wrapping import without_wrapper
    from expunge.models.load import pick_device

    device = pick_device(setting.model.device)
    return without_wrapper(load_checked(source, setting.model.model_args, encoder.tokenizer, device=device)[0])


def _lens(looking: InspectCommand) -> InspectInputs:
    from expunge.interpretability.lens import lens_scores, lens_tokens

    results: dict[str, AnalysisResult] = {}
    columns: dict[str, Column] = {}
    for role in looking.roles:
        model = looking.load(role)
        scores = lens_scores(model, looking.read)
        results[f"lens_{role}"] = scores
        results[f"lens_tokens_{role}"] = lens_tokens(model, looking.read.part(slice(TOKEN_ROWS)), looking.tokenizer)
        columns[f"log p, {role}"] = dict(zip(scores.layers, scores.logp, strict=True))
    return InspectInputs(results, columns)


def _probe(looking: InspectCommand) -> InspectInputs:
    from expunge.interpretability.hidden import hidden_states
    from expunge.interpretability.probe import compare, probe

    mine, other = looking.read, looking.other()
    whole = dataclasses.replace(
        mine, rows=(*mine.rows, *other.rows), row_ids=tuple(range(len(mine.rows) + len(other.rows)))
    )
    labels = {"forget": [True] * len(mine.rows) + [False] * len(other.rows)}
    probes = {role: probe(hidden_states(looking.load(role), whole, at="last"), labels) for role in looking.roles}
    results: dict[str, Any] = {f"probe_{role}": r for role, r in probes.items()}
    columns = {f"AUC, {role}": {line.layer: line.auc for line in r.lines} for role, r in probes.items()}
    if {"full", "retain"} <= set(probes):
        results["probe_kept"] = compare(probes["model"], probes["full"], probes["retain"])
        columns["kept"] = {line.layer: line.kept for line in results["probe_kept"].lines}
    return InspectInputs(results, columns)


def _depth(looking: InspectCommand) -> InspectInputs:
    from expunge.interpretability.activation_patching import unlearning_depth

    full, retain, model = (looking.load(role) for role in ("full", "retain", "model"))
    depth = unlearning_depth(full, retain, model, looking.read)
    scored = f"{depth.n_scored} of {depth.n_rows} rows"
    if math.isnan(depth.value):
        return InspectInputs(
            {"depth": depth}, {"erased": depth.by_layer}, f"unlearning depth: no number: {depth.reason}"
        )
    line = f"unlearning depth {depth.value:.3f} [{depth.ci_low:.3f}, {depth.ci_high:.3f}] over {scored}"
    return InspectInputs({"depth": depth}, {"erased": depth.by_layer}, f"{line} (0: intact, 1: erased)")


def _drift(looking: InspectCommand) -> InspectInputs:
    from expunge.interpretability.weights import weight_drift

    drift = weight_drift(looking.load("model"), looking.load("full"))
    whole = {line.layer: line.relative for line in drift.lines if line.module == ""}
    return InspectInputs({"drift": drift}, {"relative drift": whole})


def _cka(looking: InspectCommand) -> InspectInputs:
    from expunge.interpretability.similarity import compare_layers

    cka = compare_layers(looking.load("model"), looking.load("full"), looking.read)
    return InspectInputs({"cka": cka}, {"CKA with full": {line.layer: line.cka for line in cka.lines}})


def _attribution(looking: InspectCommand) -> InspectInputs:
    from expunge.interpretability.weights import gradient_attribution

    results = {role: gradient_attribution(looking.load(role), looking.read) for role in looking.roles}
    columns = {
        f"sum |w g|, {role}": {line.layer: line.attribution for line in r.lines if line.module == ""}
        for role, r in results.items()
    }
    return InspectInputs({f"attribution_{role}": r for role, r in results.items()}, columns)


def _attention(looking: InspectCommand) -> InspectInputs:
    from expunge.interpretability.attention import compare_attention

    attention = compare_attention(looking.load("model"), looking.load("full"), looking.read)
    return InspectInputs({"attention": attention}, {"JSD from full, bits": dict(enumerate(attention.layers))})


def _both(looking: InspectCommand) -> dict[str, AnalysisInputs]:
    """Return the two sets by name."""
    return dict(zip(looking.names, (looking.read, looking.other()), strict=True))


def _path(looking: InspectCommand) -> InspectInputs:
    from expunge.interpretability.mode_connectivity import loss_path

    path = loss_path(looking.load("model"), looking.load("full"), _both(looking))
    columns = {f"loss, {name}": {ln.a: ln.loss for ln in path.lines if ln.rows == name} for name in path.barrier}
    barriers = ", ".join(f"{name} {value:.4f}" for name, value in path.barrier.items())
    return InspectInputs({"path": path}, columns, f"barrier (0: one basin; a = 0: model, 1: full): {barriers}", "a")


def _prune(looking: InspectCommand) -> InspectInputs:
    """Select weights on every second row of the set, and read the other rows and the other set."""
    from expunge.interpretability.prune import prune_curve, saliency

    selection, rest = (_every_other(looking.read, start) for start in (0, 1))
    scored = {**_both(looking), looking.names[0]: rest}
    full = looking.load("full") if "full" in looking.roles else None
    results, columns = {}, {}
    for role in looking.roles:
        if role == "full":
            continue
        model = looking.load(role)
        by = saliency(model, selection, reference=full)
        curve = prune_curve(model, by, [n for n in COUNTS if n <= by.n_units], scored)
        results[f"prune_{role}"] = curve
        for name in scored:
            columns[f"loss, {name}, {role}"] = {line.count: line.loss for line in curve.lines if line.rows == name}
    to = "back to the full model's" if full is not None else "to zero"
    return InspectInputs(
        results, columns, f"weights moved {to}, first the ones that lower the loss of {looking.names[0]}", "moved"
    )


def _every_other(read: AnalysisInputs, start: int) -> AnalysisInputs:
    if len(read.rows) < 2:
        raise ConfigError("--n: prune needs at least two rows, one to select weights on and one to read")
    return read.part(slice(start, None, 2))


Look = tuple[Callable[[InspectCommand], InspectInputs], str, tuple[str, ...]]
LOOKS: Mapping[str, Look] = {
    "lens": (_lens, "log p of the answers at each layer", ()),
    "probe": (_probe, "whether a linear probe separates the rows from others", ()),
    "depth": (_depth, "unlearning depth score, by activation patching", ("full", "retain")),
    "drift": (_drift, "how far the weights moved from the full model's", ("full",)),
    "cka": (_cka, "similarity of the hidden states to the full model's", ("full",)),
    "attribution": (_attribution, "which layers contribute to the loss of the rows", ()),
    "attention": (_attention, "whether the heads attend to the same positions as the full model's", ("full",)),
    "path": (_path, "loss on the line to the full model (linear mode connectivity)", ("full",)),
    "prune": (_prune, "whether the answers return when a few salient weights are moved", ()),
}


def _print(seen: InspectInputs) -> None:
    from rich.table import Table

    from expunge.core.console import Console
    from expunge.interpretability.result import remarks

    shown = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for k, head in enumerate((seen.index, *seen.columns)):
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
    for line in (*remarks(seen.results), *filter(None, [seen.line])):
        say(line)
