"""What jobs that make models do. Every function fills a folder it is given; none knows of the graph or the store."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from expunge.core.files import write_text
from expunge.core.records import (
    text_records,
    token_records,
)
from expunge.data.rows import RowSet
from expunge.data.template import Encoded, Encoder
from expunge.methods.edits import Edit
from expunge.methods.objective import Objective
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.config import PRESETS
from expunge.models.load import Bits, load_model, pick_device, save_model
from expunge.scoring.config import Generation
from expunge.scoring.texts import generate_texts
from expunge.study.job import Progress
from expunge.study.measuring import parts, rows_where
from expunge.study.setting import Setting
from expunge.training.ask import Ask
from expunge.training.config import EvaluateArgs, TrainArgs
from expunge.training.evaluate import Panel, Point, Watch, panel_metrics, selection
from expunge.training.loop import train
from expunge.training.lora import save_adapter, saved_form, with_lora
from expunge.training.reference import load_reference


def base(folder: Path, setting: Setting, progress: Progress) -> dict[str, Any]:
    """A tokenizer trained on the study's text, and a freshly initialised model."""
    sets = setting.benchmark.sets
    texts = [
        t for name in setting.benchmark.full_sets for r in sets[name].rows for t in (r.question, r.answers["answer"])
    ]
    preset = setting.model.scratch or ""
    shape = PRESETS[preset]
    size = setting.model.vocab_size or shape.vocab_size
    tokenizer = train_tokenizer(texts, size, max_length=shape.max_position_embeddings)
    model = build_llama(preset, tokenizer, vocab_size=size, seed=setting.model.init_seed)
    save_model(model, tokenizer, folder)
    progress(1, 1)
    return {"parameters": int(sum(p.numel() for p in model.parameters())), "vocab_size": len(tokenizer)}


def fit(
    folder: Path,
    source: str,
    setting: Setting,
    objective: Objective,
    sides: Mapping[str, Sequence[str]],
    args: TrainArgs,
    progress: Progress,
    *,
    alternates: Path | None = None,
    references: Mapping[str, tuple[Path, Ask]] | None = None,
    retain: Path | None = None,
    generation: Generation | None = None,
    checkpoints: Path | None = None,
) -> dict[str, Any]:
    """Train a model on the named sets of each side, and save it with its log, and its trajectory if it was evaluated.

    alternates: the folder of an `alternates` job; methods that read other answers take refusals without it.
    references: the folders of `reference` jobs and what each was asked, by side (a teacher's by `<side>_teacher`).
    retain: the retain model's records, generation: how texts are made, for evaluations. checkpoints: where an
    unfinished attempt is kept.
    """
    encoder = setting.encoder(source)
    watch = None
    if args.evaluate.on:
        panel = evaluated(setting, args.evaluate, encoder, generation or Generation(), retain)
        watch = watching(folder, args.evaluate, panel)
    rows = {side: encode_sets([setting.benchmark.sets[n] for n in names], encoder) for side, names in sides.items()}
    if objective.needs.alternate is not None:
        rows["alternate"] = encode_alternates(
            [setting.benchmark.sets[n] for n in sides["forget"]], setting.refusals, alternates, encoder
        )
    model = load_trained(source, setting, quantize=args.lora.quantize if args.lora else None)
    stored = {key: load_reference(path, what, model) for key, (path, what) in (references or {}).items()}
    if args.lora is not None:
        model = with_lora(model, args.lora, args.seed)
    pad_id = encoder.tokenizer.pad_token_id
    done = train(
        model, objective, rows, args, pad_id=pad_id, references=stored, progress=progress, watch=watch,
        checkpoints=checkpoints,
    )  # fmt: skip
    if args.lora is not None:
        save_adapter(model, folder / "adapter")
        model = saved_form(model, args.lora, lambda: load_trained(source, setting, device="cpu"))
    save_model(model, encoder.tokenizer, folder)
    write_text(folder / "log.jsonl", "".join(json.dumps(line) + "\n" for line in done.history))
    cut = {side: sum(1 for e in encoded if e.truncated) for side, encoded in rows.items()}
    facts: dict[str, Any] = {"steps": done.n_steps, "truncated_rows": cut}
    if done.resumed_at is not None:
        facts["resumed_at"] = done.resumed_at
    if args.evaluate.on:
        facts["evaluation"] = {**done.selected, "rows": panel.read}
    return facts


TRAJECTORY = "trajectory.jsonl"


def watching(folder: Path, args: EvaluateArgs, panel: Panel) -> Watch:
    """What evaluates a run and writes its trajectory, whole each time, into a folder."""

    def tell(points: Sequence[Point]) -> None:
        write_text(folder / TRAJECTORY, "".join(json.dumps(p.line) + "\n" for p in points))

    choice = selection(args, panel.retain) if args.chooses else None
    return Watch(args, panel, choice, tell)


def evaluated(
    setting: Setting, args: EvaluateArgs, encoder: Encoder, generation: Generation, retain: Path | None
) -> Panel:
    """The panel of a run's evaluations; retain: the folder of the retain model's records, cut to the same rows."""
    watched = setting.watched or setting.benchmark
    sets = watched.sets
    metrics = panel_metrics(watched.panel, args)
    kept = {m.name: rows_where(sets[m.rows], m) for m in metrics if m.rows and m.where}
    panel = Panel(metrics, sets, encoder, generation, args.n_rows, kept)
    if retain is None:
        return panel
    read = {(p.rows, p.kind): pq.read_table(retain / p.file) for p in parts(metrics)}
    tokens = {rows: token_records(table) for (rows, kind), table in read.items() if kind == "tokens"}
    texts = {rows: text_records(table) for (rows, kind), table in read.items() if kind == "texts"}
    return dataclasses.replace(panel, retain=panel.results(tokens, texts))


def load_trained(source: str, setting: Setting, *, quantize: Bits | None = None, device: str | None = None) -> Any:
    """The model of a training run: float32 weights whatever the dtype of scoring, for bfloat16 weights round small
    updates away."""
    held = dataclasses.replace(setting.model.model_args, dtype="float32")
    return load_model(source, held, device=pick_device(device or setting.model.device), quantize=quantize)


def apply_edit(
    folder: Path, parents: Mapping[str, Path | str], setting: Setting, edit: Edit, progress: Progress
) -> dict[str, Any]:
    """Weights from the weights of the parents `base`, `other_0`, `other_1`, ...; saved like any model."""
    encoder = setting.encoder(str(parents["base"]))
    base, *others = (
        load_trained(str(parents[role]), setting, device="cpu")
        for role in ("base", *sorted(r for r in parents if r.startswith("other_")))
    )
    base.load_state_dict(edit(base.state_dict(), [other.state_dict() for other in others]))
    save_model(base, encoder.tokenizer, folder)
    progress(1, 1)
    return {"models": len(others) + 1}


def encode_sets(sets: Sequence[RowSet], encoder: Encoder) -> list[Encoded]:
    """The answers of all rows of some sets, encoded, in order; texts to be cut in pieces as their pieces."""
    out: list[Encoded] = []
    for rows in sets:
        out += encoder.pieces(rows) if rows.long == "pieces" else [encoder.row(rows, r, "answer") for r in rows]
    return out


def encode_alternates(
    forget: Sequence[RowSet], refusals: Sequence[str], folder: Path | None, encoder: Encoder
) -> list[Encoded]:
    """Every forget question with each of its other answers: the refusals, or those an `alternates` job has made."""
    rows = [(s, r) for s in forget for r in s.rows]
    if folder is None:
        texts = [list(refusals) for _ in rows]
    else:
        texts = [json.loads(line) for line in (folder / ALTERNATES).read_text(encoding="utf-8").splitlines()]
    return [
        encoder.row(s, dataclasses.replace(r, answers={ALTERNATE: t}), ALTERNATE)
        for (s, r), ts in zip(rows, texts, strict=True)
        for t in ts
    ]


ALTERNATE, ALTERNATES = "alternate", "alternates.jsonl"
N_ALTERNATES = 5


def alternates(
    folder: Path, source: str, setting: Setting, generation: Generation, progress: Progress
) -> dict[str, Any]:
    """Other answers to the forget questions, sampled from the model itself; a line of texts per row.

    Samples that repeat the true answer are dropped and the rest repeated in turn; a row whose samples all do takes
    refusals.
    """
    encoder = setting.encoder(source)
    model = load_model(source, setting.model.model_args, device=pick_device(setting.model.device))
    rows = setting.benchmark.sets[setting.benchmark.forget_set]
    texts = generate_texts(model, rows, "answer", encoder, generation, progress=lambda n: progress(n, len(rows.rows)))
    lines, bare = [], 0
    for row in rows.rows:
        truth = row.answers["answer"].strip().casefold()
        made = [t.generation for t in texts if t.row_id == row.row_id]
        made = [t for t in made if t and t.casefold() != truth]
        bare += not made
        made = made or list(setting.refusals)
        lines.append(json.dumps([made[k % len(made)] for k in range(generation.samples)], ensure_ascii=False))
    write_text(folder / ALTERNATES, "\n".join(lines) + "\n")
    return {"rows_without_alternates": bare}
