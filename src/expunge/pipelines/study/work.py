"""What jobs that make models do. Every function fills a folder it is given; none knows of the graph or the store."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from expunge.benchmarks import Benchmark
from expunge.core import distributed
from expunge.core.errors import ConfigError, nearest
from expunge.core.files import write_text
from expunge.data.examples import ExampleSet
from expunge.data.stories import TokenDataset, joined
from expunge.data.template import Encoded, Encoder, n_truncated
from expunge.engine.job import Progress
from expunge.engine.store import store_around
from expunge.evaluation.config import Generation
from expunge.evaluation.generation import generate_texts
from expunge.evaluation.passport import check_model
from expunge.methods.objective import Objective
from expunge.methods.weight_edits import WeightEdit
from expunge.metrics.api import Metric, MetricResult
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.config import PRESETS, TokenizerArgs
from expunge.models.load import Bits, load_model, load_tokenizer, pick_device, save_model
from expunge.models.passport import check_trainable
from expunge.models.saved_dtype import dtype_to_save, stored_dtype
from expunge.models.token_ids import check_ids
from expunge.pipelines.study.measuring import READING, parts
from expunge.pipelines.study.task_context import TaskContext
from expunge.training.config import EvaluateArgs, TrainArgs
from expunge.training.eval_losses import EvalLosses, GenerationTable, as_lines
from expunge.training.evaluation_callback import EvalCallback, EvalPoint, MetricSuite, model_selection, suite_metrics
from expunge.training.forward import ForwardSpec
from expunge.training.loop import train
from expunge.training.lora import merged_copy, save_adapter, saved_form, with_lora
from expunge.training.randomness import kept_random
from expunge.training.reference import load_reference
from expunge.training.reporters import Reporters, reporters
from expunge.training.run_state import TrainResult


def base(folder: Path, setting: TaskContext, progress: Progress) -> dict[str, Any]:
    """A tokenizer, trained on the study's text or given with its tokens, and a freshly initialised model."""
    sets = setting.benchmark.sets
    preset = setting.model.scratch or ""
    shape = PRESETS[preset]
    size = setting.model.vocab_size or shape.vocab_size
    if setting.benchmark.tokenizer is not None:  # the rows are its tokens already
        tokenizer = load_tokenizer(setting.benchmark.tokenizer, TokenizerArgs())
        size = setting.model.vocab_size or 1 + max(tokenizer.get_vocab().values())  # ids may be left out
    else:
        full = [sets[name] for name in setting.benchmark.full_sets]
        texts = [t for rows in full for r in rows.rows for t in (r.question, r.answers["answer"])]
        tokenizer = train_tokenizer(texts, size, max_length=shape.max_position_embeddings)
    model = build_llama(preset, tokenizer, vocab_size=size, seed=setting.model.init_seed)
    save_model(model, tokenizer, folder)
    progress(1, 1)
    return {"parameters": int(sum(p.numel() for p in model.parameters())), "vocab_size": len(tokenizer)}


def fit(
    folder: Path,
    source: str,
    setting: TaskContext,
    objective: Objective,
    sides: Mapping[str, Sequence[str]],
    args: TrainArgs,
    progress: Progress,
    *,
    alternates: Path | None = None,
    references: Mapping[str, tuple[Path, ForwardSpec]] | None = None,
    retain: Path | Mapping[str, MetricResult] | None = None,
    generation: Generation | None = None,
    checkpoints: Path | None = None,
    after_step: Callable[[TrainerState], bool] | None = None,
    label: str = "run",
) -> dict[str, Any]:
    """Train a model on the named sets of each side, and save it with its log, and its trajectory if it was evaluated.

    alternates: the folder of an `alternates` job; methods that read other answers take refusals without it.
    references: the folders of `reference` jobs and what each was asked, by side (a teacher's by `<side>_teacher`).
    retain: the retain model's records or its results, generation: how texts are made, for evaluations. checkpoints:
    where an unfinished attempt is kept. label: what the run is called where it is reported to. after_step: is told of
    the run before its first step and after each, and may end it.
    """
    encoder = setting.encoder(source)
    seen = seen_sets(setting, args.evaluate, encoder)
    rows = {side: encode_sets([setting.benchmark.sets[n] for n in names], encoder) for side, names in sides.items()}
    if objective.needs.alternate is not None:
        rows["alternate"] = encode_alternates(
            [setting.benchmark.sets[n] for n in sides["forget"]], setting.refusals, alternates, encoder
        )
    model = load_trained(source, setting, quantize=args.lora.quantize if args.lora else None)
    trained_args = dataclasses.replace(setting.model.model_args, dtype="float32")
    passport = check_model(model, encoder.tokenizer, source, trained_args, store=store_around(folder))
    check_rows(model, rows)
    stored = {key: load_reference(path, what, model) for key, (path, what) in (references or {}).items()}
    if args.lora is not None:
        model = with_lora(model, args.lora, args.seed)
    pad_id = encoder.tokenizer.pad_token_id
    watch = panel = follow = None
    first = distributed.here().first
    with reporters(args.report_to if first else (), Path(args.report_dir), label) as told:
        if args.evaluate.on:
            panel = evaluated(setting, args.evaluate, encoder, generation or Generation(), retain)
            watch = watching(folder, args, panel, seen, encoder, generation or Generation(), told)
        if after_step is not None:
            moment = TrainerState(
                model, encoder, args, lambda: load_trained(source, setting, device="cpu"), watch,
                dtype_to_save(args.save_dtype, source),
            )  # fmt: skip
            after_step(moment)
            follow = functools.partial(after_step, moment)
        done = train(
            model, objective, rows, args, pad_id=pad_id, references=stored, progress=progress, watch=watch,
            checkpoints=checkpoints, logged=lambda line: told.numbers(int(line["step"] or 0), line), after_step=follow,
        )  # fmt: skip
    if not first:
        return {}
    if args.lora is not None:
        save_adapter(model, folder / "adapter")
        model = saved_form(model, args.lora, lambda: load_trained(source, setting, device="cpu"))
    save_model(model, encoder.tokenizer, folder, dtype=dtype_to_save(args.save_dtype, source))
    write_text(folder / "log.jsonl", as_lines(done.history))
    write_text(folder / "speed.jsonl", as_lines(done.speed_lines))  # apart, for no two runs have the same
    cut = {side: n_truncated(encoded) for side, encoded in rows.items()}
    facts = _facts(done, cut, panel, setting, args.evaluate)
    return {**facts, READING: list(passport.notes)} if passport.notes else facts


def check_rows(model: Any, rows: Mapping[str, Sequence[Encoded]]) -> None:
    """Raise ConfigError for a row to train on with an id beyond the model's embeddings.

    Rows that are tokens on disk are not read here: they were checked against the tokenizer.
    """
    for side, encoded in rows.items():
        if isinstance(encoded, list):
            check_ids(model, ((f"{side} row {k}", row.ids) for k, row in enumerate(encoded)))


def _facts(
    done: TrainResult, cut: Mapping[str, int], panel: MetricSuite | None, setting: TaskContext, args: EvaluateArgs
) -> dict[str, Any]:
    """What the record of a run says of it. cut: how many rows of each side were; panel: what was evaluated, if at
    all."""
    facts: dict[str, Any] = {"steps": done.n_steps, "truncated_rows": cut, "speed": done.speed}
    if done.resumed_at is not None:
        facts["resumed_at"] = done.resumed_at
    if panel is not None:
        losses = dict.fromkeys(loss_sets(setting.benchmark, args), args.n_rows)
        facts["evaluation"] = {**done.selected, "rows": panel.read, **({"losses": losses} if losses else {})}
    return facts


def cut_answers(record: Mapping[str, Any] | None) -> dict[str, int]:
    """Of a finished job: how many answers of each set were cut, where any were."""
    facts = (record or {}).get("facts", {})
    cut = {**facts.get("truncated_rows", {}), **facts.get("truncated_answers", {})}
    return {name: n for name, n in cut.items() if n}


def reading_notes(record: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the notes of a finished job on how its model was read."""
    return tuple((record or {}).get("facts", {}).get(READING, ()))


@dataclass(frozen=True)
class TrainerState:
    """A run between two steps, as it can be saved: its model, and what gives that model as it was, without adapters."""

    model: Any
    encoder: Encoder
    args: TrainArgs
    reload: Callable[[], Any]
    watch: EvalCallback | None
    dtype: str | None = None  # of the weights in the files

    @property
    def best_step(self) -> int | None:
        """The step of the best evaluation so far, where the best model is to be kept."""
        return None if self.watch is None else self.watch.best_step

    def save(self, folder: Path) -> None:
        """Write the model as it is now; training goes on as if nothing had been saved."""
        with kept_random():
            plain = self.model
            if self.args.lora is not None:
                plain = merged_copy(self.model, self.args.lora, self.reload)
            save_model(plain, self.encoder.tokenizer, folder, dtype=self.dtype)


TRAJECTORY, GENERATIONS = "trajectory.jsonl", "generations.jsonl"


def watching(
    folder: Path,
    args: TrainArgs,
    panel: MetricSuite,
    seen: EvalInputs,
    encoder: Encoder,
    generation: Generation,
    told: Reporters,
) -> EvalCallback:
    """What evaluates a run and writes its trajectory and its generations, whole each time, into a folder."""

    def tell(points: Sequence[EvalPoint]) -> None:
        write_text(folder / TRAJECTORY, as_lines([p.line for p in points]))
        told.numbers(points[-1].step, points[-1].values)

    def tell_texts(lines: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> None:
        write_text(folder / GENERATIONS, as_lines(lines))
        if new:
            told.texts(int(new[0]["step"]), new)

    how, (rows, prompts) = args.evaluate, seen
    choice = model_selection(how, panel.retain) if how.chooses else None
    losses = EvalLosses(rows, encoder.tokenizer.pad_token_id)
    table = None
    if how.prompts:
        table = GenerationTable(prompts, encoder, generation, how.generate_every, args.dense_logging_steps, tell_texts)
    return EvalCallback(how, lambda model: {**panel(model), **losses(model)}, choice, tell, table)


def evaluated(
    setting: TaskContext,
    args: EvaluateArgs,
    encoder: Encoder,
    generation: Generation,
    retain: Path | Mapping[str, MetricResult] | None,
) -> MetricSuite:
    """The panel of a run's evaluations; retain: the folder of the retain model's records, cut to the same rows, or its
    results on all rows."""
    watched = setting.watched or setting.benchmark
    metrics = watched_metrics(watched, args)
    panel = MetricSuite(metrics, watched.sets, encoder, generation, args.n_rows, limits=watched.generation)
    if not isinstance(retain, Path):
        return dataclasses.replace(panel, retain=retain)
    tables = {(p.rows, p.kind): pq.read_table(retain / p.file) for p in parts(metrics)}
    return dataclasses.replace(panel, retain=panel.results(tables))


def loss_sets(benchmark: Benchmark, args: EvaluateArgs, where: str = "trainer.args.evaluate") -> tuple[str, ...]:
    """The sets whose mean token loss is read during training. Raises ConfigError for a name that is none."""
    named = benchmark.loss_sets if args.losses is None else args.losses
    for i, name in enumerate(named):
        if name not in benchmark.sets:
            raise ConfigError(f"{where}.losses[{i}]: no set named {name!r}{nearest(name, benchmark.sets)}")
    if args.prompts and not named:
        raise ConfigError(f"{where}.prompts: prompts of which sets? name them at {where}.losses")
    return named


EvalInputs = tuple[dict[str, Sequence[Encoded]], dict[str, Sequence[Encoded]]]


def seen_sets(setting: TaskContext, args: EvaluateArgs, encoder: Encoder) -> EvalInputs:
    """The rows whose losses are read during training, and those whose prompts are continued, by set.

    Raises ConfigError for a set that has no prompt.
    """
    rows: dict[str, Sequence[Encoded]] = {}
    prompts: dict[str, Sequence[Encoded]] = {}
    for name in loss_sets(setting.benchmark, args) if args.on else ():
        one = setting.benchmark.sets[name]
        encoded = encode_sets([one], encoder)
        rows[name] = encoded[: args.n_rows or len(encoded)]
        if not args.prompts:
            continue
        whole = one.prompts(args.prompts) if isinstance(one, TokenDataset) else encoded[: args.prompts]
        prompts[name] = [row for row in whole if row.n_prompt]
        if not prompts[name]:
            width = f" within {one.max_length} tokens" if isinstance(one, TokenDataset) else ""
            raise ConfigError(f"trainer.args.evaluate.prompts: no row of {name} has a prompt{width} to go on from")
    return rows, prompts


def watched_metrics(benchmark: Benchmark, args: EvaluateArgs) -> list[Metric]:
    """The metrics that are evaluated during training: none where a benchmark has losses alone. Raises ConfigError."""
    if not benchmark.panel and loss_sets(benchmark, args) and args.panel == "fast" and not args.chooses:
        return []
    return suite_metrics(benchmark.panel, args)


def load_trained(source: str, setting: TaskContext, *, quantize: Bits | None = None, device: str | None = None) -> Any:
    """The model of a training run: float32 weights whatever the dtype of scoring, for bfloat16 weights round small
    updates away."""
    check_trainable(source)
    held = dataclasses.replace(setting.model.model_args, dtype="float32")
    # a model that is to be cut in shards need not fit on one device
    where = device or ("cpu" if distributed.sharded() and quantize is None else setting.model.device)
    return load_model(source, held, device=pick_device(where), quantize=quantize)


def apply_edit(
    folder: Path, parents: Mapping[str, Path | str], setting: TaskContext, edit: WeightEdit, progress: Progress
) -> dict[str, Any]:
    """Weights from the weights of the parents `base`, `other_0`, `other_1`, ...; saved like any model."""
    encoder = setting.encoder(str(parents["base"]))
    base, *others = (
        load_trained(str(parents[role]), setting, device="cpu")
        for role in ("base", *sorted(r for r in parents if r.startswith("other_")))
    )
    base.load_state_dict(edit(base.state_dict(), [other.state_dict() for other in others]))
    save_model(base, encoder.tokenizer, folder, dtype=stored_dtype(str(parents["base"])))
    progress(1, 1)
    return {"models": len(others) + 1}


def encode_sets(sets: Sequence[ExampleSet], encoder: Encoder) -> Sequence[Encoded]:
    """The answers of all rows of some sets, encoded, in order; texts to be cut in pieces as their pieces.

    Sets of tokens stay on disk, and are read row by row. Raises ConfigError if they are not the model's tokens.
    """
    shards = [s for s in sets if isinstance(s, TokenDataset)]
    if shards:
        if len(shards) < len(sets):
            raise ConfigError("benchmark: sets of tokens and sets of texts cannot be trained on as one side")
        for each in shards:
            each.check_tokenizer(encoder.tokenizer)
        return joined(shards)
    out: list[Encoded] = []
    for rows in sets:
        out += encoder.pieces(rows) if rows.long == "pieces" else [encoder.row(rows, r, "answer") for r in rows]
    return out


def encode_alternates(
    forget: Sequence[ExampleSet], refusals: Sequence[str], folder: Path | None, encoder: Encoder
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
    folder: Path, source: str, setting: TaskContext, generation: Generation, progress: Progress
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
