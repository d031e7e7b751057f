"""The work of jobs that write models. Every function fills a folder and is independent of the graph."""

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
from expunge.training import encoding
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
    """Write a tokenizer, trained on the study's text or that of its tokens, and a freshly initialised model."""
    sets = setting.benchmark.sets
    preset = setting.model.scratch or ""
    shape = PRESETS[preset]
    size = setting.model.vocab_size or shape.vocab_size
    if setting.benchmark.tokenizer is not None:  # the rows are its tokens
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

    alternates: the folder of an `alternates` job; without it, methods that read other answers use refusals.
    references: the folders of `reference` jobs and their specs, by side (a teacher's by `<side>_teacher`). retain,
    generation: the retain model's records or results and the generation settings of evaluations. checkpoints: the
    folder of an unfinished attempt. label: the run's name in reporters. after_step: a callback before the first step
    and after each step; its return value may end the run.
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
    stored = {key: load_reference(path, spec, model) for key, (path, spec) in (references or {}).items()}
    if args.lora is not None:
        model = with_lora(model, args.lora, args.seed)
    pad_id = encoder.tokenizer.pad_token_id
    watch = panel = follow = None
    first = distributed.here().first
    with reporters(args.report_to if first else (), Path(args.report_dir), label) as run_reporters:
        if args.evaluate.on:
            panel = evaluated(setting, args.evaluate, encoder, generation or Generation(), retain)
            watch = watching(folder, args, panel, seen, encoder, generation or Generation(), run_reporters)
        if after_step is not None:
            state = TrainerState(
                model, encoder, args, lambda: load_trained(source, setting, device="cpu"), watch,
                dtype_to_save(args.save_dtype, source),
            )  # fmt: skip
            after_step(state)
            follow = functools.partial(after_step, state)
        result = train(
            model, objective, rows, args, pad_id=pad_id, references=stored, progress=progress, watch=watch,
            checkpoints=checkpoints, after_step=follow,
            logged=lambda line: run_reporters.numbers(int(line["step"] or 0), line),
        )  # fmt: skip
    if not first:
        return {}
    if args.lora is not None:
        save_adapter(model, folder / "adapter")
        model = saved_form(model, args.lora, lambda: load_trained(source, setting, device="cpu"))
    save_model(model, encoder.tokenizer, folder, dtype=dtype_to_save(args.save_dtype, source))
    write_text(folder / "log.jsonl", as_lines(result.history))
    write_text(
        folder / "speed.jsonl", as_lines(result.speed_lines)
    )  # a file of its own, because it differs in every run
    cut = {side: n_truncated(encoded) for side, encoded in rows.items()}
    facts = _facts(result, cut, panel, setting, args.evaluate)
    return {**facts, READING: list(passport.notes)} if passport.notes else facts


def check_rows(model: Any, rows: Mapping[str, Sequence[Encoded]]) -> None:
    """Raise ConfigError for a row to train on with an id beyond the model's embeddings.

    Token rows on disk are not read here, because their tokenizer has been checked.
    """
    for side, encoded in rows.items():
        if isinstance(encoded, list):
            check_ids(model, ((f"{side} row {k}", row.ids) for k, row in enumerate(encoded)))


def _facts(
    done: TrainResult, cut: Mapping[str, int], panel: MetricSuite | None, setting: TaskContext, args: EvaluateArgs
) -> dict[str, Any]:
    """Return the facts of a run for its record.

    cut: the number of truncated rows of each side. panel: the metric suite of evaluations, if any.
    """
    facts: dict[str, Any] = {"steps": done.n_steps, "truncated_rows": cut, "speed": done.speed}
    if done.resumed_at is not None:
        facts["resumed_at"] = done.resumed_at
    if panel is not None:
        losses = dict.fromkeys(loss_sets(setting.benchmark, args), args.n_rows)
        facts["evaluation"] = {**done.selected, "rows": panel.read, **({"losses": losses} if losses else {})}
    return facts


def cut_answers(record: Mapping[str, Any] | None) -> dict[str, int]:
    """Return the number of truncated answers of a finished job by set, without zeros."""
    facts = (record or {}).get("facts", {})
    cut = {**facts.get("truncated_rows", {}), **facts.get("truncated_answers", {})}
    return {name: n for name, n in cut.items() if n}


def reading_notes(record: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the notes of a finished job on the loading of its model."""
    return tuple((record or {}).get("facts", {}).get(READING, ()))


@dataclass(frozen=True)
class TrainerState:
    """The state of a run between two steps. reload: loads the start model, without adapters."""

    model: Any
    encoder: Encoder
    args: TrainArgs
    reload: Callable[[], Any]
    watch: EvalCallback | None
    dtype: str | None = None  # of the weights in the files

    @property
    def best_step(self) -> int | None:
        """The step of the best evaluation so far, if the run keeps the best model."""
        return None if self.watch is None else self.watch.best_step

    def save(self, folder: Path) -> None:
        """Write the present model. The state of training does not change."""
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
    run_reporters: Reporters,
) -> EvalCallback:
    """Return the callback that evaluates a run and rewrites its trajectory and generations in a folder."""

    def tell(points: Sequence[EvalPoint]) -> None:
        write_text(folder / TRAJECTORY, as_lines([p.line for p in points]))
        run_reporters.numbers(points[-1].step, points[-1].values)

    def tell_texts(lines: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> None:
        write_text(folder / GENERATIONS, as_lines(lines))
        if new:
            run_reporters.texts(int(new[0]["step"]), new)

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
    """Return the metric suite of a run's evaluations.

    retain: the folder of the retain model's records, for the same rows, or its results on all rows.
    """
    watched = setting.watched or setting.benchmark
    metrics = watched_metrics(watched, args)
    panel = MetricSuite(metrics, watched.sets, encoder, generation, args.n_rows, limits=watched.generation)
    if not isinstance(retain, Path):
        return dataclasses.replace(panel, retain=retain)
    tables = {(p.rows, p.kind): pq.read_table(retain / p.file) for p in parts(metrics)}
    return dataclasses.replace(panel, retain=panel.results(tables))


def loss_sets(benchmark: Benchmark, args: EvaluateArgs, where: str = "trainer.args.evaluate") -> tuple[str, ...]:
    """Return the sets whose mean token loss is read during training. Raises ConfigError for an unknown set."""
    named = benchmark.loss_sets if args.losses is None else args.losses
    for i, name in enumerate(named):
        if name not in benchmark.sets:
            raise ConfigError(f"{where}.losses[{i}]: no set named {name!r}{nearest(name, benchmark.sets)}")
    if args.prompts and not named:
        raise ConfigError(f"{where}.prompts: prompts need sets; list them in {where}.losses")
    return named


EvalInputs = tuple[dict[str, Sequence[Encoded]], dict[str, Sequence[Encoded]]]


def seen_sets(setting: TaskContext, args: EvaluateArgs, encoder: Encoder) -> EvalInputs:
    """Return, by set, the rows for losses and the rows for generations during training.

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
            raise ConfigError(f"trainer.args.evaluate.prompts: no row of {name} has a prompt{width}")
    return rows, prompts


def watched_metrics(benchmark: Benchmark, args: EvaluateArgs) -> list[Metric]:
    """Return the metrics of evaluations during training; none if the benchmark has only losses. Raises ConfigError."""
    if not benchmark.panel and loss_sets(benchmark, args) and args.panel == "fast" and not args.chooses:
        return []
    return suite_metrics(benchmark.panel, args)


def load_trained(source: str, setting: TaskContext, *, quantize: Bits | None = None, device: str | None = None) -> Any:
    """Return the model of a training run, always in float32, because bfloat16 weights lose small updates."""
    check_trainable(source)
    model_args = dataclasses.replace(setting.model.model_args, dtype="float32")
    # a model that will be sharded need not fit on one device
    where = device or ("cpu" if distributed.sharded() and quantize is None else setting.model.device)
    return load_model(source, model_args, device=pick_device(where), quantize=quantize)


def apply_edit(
    folder: Path, parents: Mapping[str, Path | str], setting: TaskContext, edit: WeightEdit, progress: Progress
) -> dict[str, Any]:
    """Write a model with weights from the parents `base`, `other_0`, `other_1`, ..."""
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
    """Encode the answers of all rows of some sets, in order. Sets with `long=pieces` give pieces of texts.

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
    """Encode every forget question with each of its other answers: refusals, or samples of an `alternates` job."""
    if folder is None:
        texts = [list(refusals) for one in forget for _ in one.rows]
    else:
        texts = [json.loads(line) for line in (folder / ALTERNATES).read_text(encoding="utf-8").splitlines()]
    out: list[Encoded] = []
    for one in forget:
        out += encoding.encode_alternates(one, texts[: len(one.rows)], encoder)
        texts = texts[len(one.rows) :]
    if texts:
        raise ValueError(f"{len(texts)} lists of other answers belong to no row")
    return out


ALTERNATES = "alternates.jsonl"


def alternates(
    folder: Path, source: str, setting: TaskContext, generation: Generation, progress: Progress
) -> dict[str, Any]:
    """Sample other answers to the forget questions from the model; writes one line of texts per row.

    Drops samples that repeat the true answer and cycles the others; a row without other samples gets refusals.
    """
    encoder = setting.encoder(source)
    model = load_model(source, setting.model.model_args, device=pick_device(setting.model.device))
    rows = setting.benchmark.sets[setting.benchmark.forget_set]
    texts = generate_texts(model, rows, "answer", encoder, generation, progress=lambda n: progress(n, len(rows.rows)))
    lines, bare = [], 0
    for row in rows.rows:
        answers = encoding.other_answers(row, texts)
        bare += not answers
        answers = answers or list(setting.refusals)
        lines.append(json.dumps([answers[k % len(answers)] for k in range(generation.samples)], ensure_ascii=False))
    write_text(folder / ALTERNATES, "\n".join(lines) + "\n")
    return {"rows_without_alternates": bare}
