"""The work of jobs that write models. Every function fills a folder and is independent of the graph."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import pyarrow.parquet as pq

from expunge.core import distributed
from expunge.core.errors import ConfigError
from expunge.core.files import json_lines, write_text
from expunge.core.on_use import ModuleOnUse
from expunge.data.encoder import Encoded, Encoder, n_truncated
from expunge.data.examples import ExampleSet
from expunge.engine.job import Progress
from expunge.engine.store import store_around
from expunge.evaluation.config import Generation
from expunge.evaluation.evaluator import Evaluator
from expunge.evaluation.kinds import parts
from expunge.evaluation.observation import capabilities
from expunge.evaluation.passport import load_checked
from expunge.evaluation.prompts import check_lengths
from expunge.methods.objective import Objective
from expunge.metrics.api import MetricResult
from expunge.metrics.compute import requests
from expunge.models.config import PRESETS, TokenizerArgs, looks_local
from expunge.models.dtypes import arithmetic_notes, dtype_to_save, stored_dtype
from expunge.models.load import Bits, context_of, load_model, load_tokenizer, pick_device, save_model
from expunge.models.passport import Passport, check_trainable
from expunge.pipelines.study.task_context import TaskContext
from expunge.pipelines.study_jobs import GENERATIONS, READING, TRAJECTORY
from expunge.training.config import TrainArgs
from expunge.training.encoding import check_rows, encode_alternates, encode_sets, sampled_answers
from expunge.training.evaluate_args import EvaluateArgs
from expunge.training.optimizers import weights_dtype
from expunge.training.phases import ForwardSpec
from expunge.training.reference import load_reference
from expunge.training.run_state import TrainResult
from expunge.training.saved_run import TrainerState, train_and_save

if TYPE_CHECKING:
    from expunge.data.stories.shards import TokenDataset
    from expunge.methods.weight_edits import WeightEdit
    from expunge.models.wrapper_api import Wrapper
    from expunge.training import model_selection
    from expunge.training.in_memory.evaluation_callback import EvalCallback
    from expunge.training.in_memory.reporters import Reporters
else:
    model_selection = ModuleOnUse("expunge.training.model_selection")


def base(folder: Path, setting: TaskContext, progress: Progress) -> dict[str, Any]:
    """Write a tokenizer, trained on the study's text or that of its tokens, and a freshly initialised model."""
    from expunge.models.build import build_llama, train_tokenizer

    sets = setting.benchmark.sets
    preset = setting.model.scratch or ""
    shape = PRESETS[preset]
    size = setting.model.vocab_size or shape.vocab_size
    if setting.benchmark.tokenizer is not None:  # the rows are its tokens
        tokenizer = load_tokenizer(setting.benchmark.tokenizer, TokenizerArgs())
        size = setting.model.vocab_size or 1 + max(tokenizer.get_vocab().values())  # ids may be left out
    else:
        full = [sets[name] for name in setting.benchmark.full_sets]
        texts = [t for rows in full for r in rows.rows for t in (r.question, *([r.trace] if r.trace else ()), r.answer)]
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
    references: the folders of `reference` jobs and their specs, by side (a teacher's by `<side>_teacher`). retain: the
    retain model's records or results. generation: the generation settings of evaluations. checkpoints: the folder of an
    unfinished attempt. label: the run's name in reporters. after_step: a callback before the first step and after each
    step; its return value may end the run.
    """
    encoder = setting.encoder(source)
    seen = seen_sets(setting, args.evaluate, encoder)
    rows = {
        side: encode_sets(
            [setting.benchmark.sets[n] for n in names], encoder, args.span_of(side), objective.needs.marks_of(side)
        )
        for side, names in sides.items()
    }
    if objective.needs.alternate is not None:
        rows["alternate"] = alternate_rows(
            [setting.benchmark.sets[n] for n in sides["forget"]], setting.refusals, alternates, encoder
        )
    rollouts = None
    if objective.needs.rollout is not None:
        from expunge.training.rollouts import rollout_source

        questions = {side: [setting.benchmark.sets[n] for n in sides[side]] for side in objective.needs.rollout_sides}
        rollouts = rollout_source(questions["forget"], encoder, questions.get("retain", ()))
    watch = evaluator = None
    if args.evaluate.on:
        context = context_of(source, setting.model.model_args)
        evaluator = evaluated(setting, args.evaluate, encoder, generation or Generation(), retain, context)
    bits = args.lora.quantize if args.lora else None
    dtype = weights_dtype(args.optim)
    model, passport = open_trained(source, setting, encoder, folder, quantize=bits, dtype=dtype)
    check_rows(model, rows)
    stored = {key: load_reference(path, spec, model) for key, (path, spec) in (references or {}).items()}
    first = distributed.here().first
    with _reporters(args if first else None, label) as run_reporters:
        if evaluator is not None:
            watch = watching(folder, args, evaluator, seen, encoder, generation or Generation(), run_reporters)
        result = train_and_save(
            folder, model, encoder, objective, rows, args, dtype=dtype_to_save(args.save_dtype, source),
            reload=lambda: load_weights(source, setting), references=stored, watch=watch,
            progress=progress, checkpoints=checkpoints, after_step=after_step,
            logged=None if run_reporters is None else run_reporters.line, rollouts=rollouts,
            start=Path(source).expanduser() if looks_local(source) else None,
        )  # fmt: skip
    if not first:
        return {}
    cut = {side: n_truncated(encoded) for side, encoded in rows.items()}
    facts = _facts(result, cut, evaluator, setting, args.evaluate)
    notes = [*passport.notes, *encoder.notes, *arithmetic_notes(pick_device(setting.model.device).type, bf16=args.bf16)]
    return {**facts, READING: notes} if notes else facts


def _reporters(args: TrainArgs | None, label: str) -> AbstractContextManager[Reporters | None]:
    """Return the context of a run's reporters; of None if it has none."""
    if args is None or not args.report_to:
        return nullcontext()
    from expunge.training.in_memory.reporters import reporters

    return reporters(args.report_to, Path(args.report_dir), label)


def _facts(
    done: TrainResult, cut: Mapping[str, int], evaluator: Evaluator | None, setting: TaskContext, args: EvaluateArgs
) -> dict[str, Any]:
    """Return the facts of a run for its record.

    cut: the number of truncated rows of each side. evaluator: of evaluations during training, if any.
    """
    facts: dict[str, Any] = {"steps": done.n_steps, "truncated_rows": cut, "speed": done.speed}
    if done.resumed_at is not None:
        facts["resumed_at"] = done.resumed_at
    if evaluator is not None:
        losses = dict.fromkeys(model_selection.loss_sets(setting.benchmark, args), args.n_rows)
        read = {rows: len(evaluator.examples(rows)) for rows in sorted(requests(evaluator.metrics).rows)}
        facts["evaluation"] = {**done.selected, "rows": read, **({"losses": losses} if losses else {})}
    return facts


def watching(
    folder: Path,
    args: TrainArgs,
    evaluator: Evaluator,
    seen: EvalInputs,
    encoder: Encoder,
    generation: Generation,
    run_reporters: Reporters | None,
) -> EvalCallback:
    """Return the callback that evaluates a run and rewrites its trajectory and generations in a folder."""
    from expunge.training.eval_losses import EvalLosses, GenerationTable
    from expunge.training.in_memory.evaluation_callback import EvalCallback, suite_values

    def tell(points: Sequence[model_selection.EvalPoint]) -> None:
        write_text(folder / TRAJECTORY, json_lines([p.line for p in points]))
        if run_reporters is not None:
            run_reporters.numbers(points[-1].step, points[-1].values)

    def tell_texts(lines: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> None:
        write_text(folder / GENERATIONS, json_lines(lines))
        if new and run_reporters is not None:
            run_reporters.texts(int(new[0]["step"]), new)

    how, (rows, prompts) = args.evaluate, seen
    loss = None if evaluator.metrics else next((f"loss/{name}" for name in rows), None)
    choice = model_selection.model_selection(how, evaluator.retain, loss) if how.chooses else None
    losses = EvalLosses(rows, encoder.tokenizer.pad_token_id)
    table = None
    if how.prompts:
        table = GenerationTable(prompts, encoder, generation, how.generate_every, args.dense_logging_steps, tell_texts)
    return EvalCallback(how, lambda model: {**suite_values(evaluator, model), **losses(model)}, choice, tell, table)


def evaluated(
    setting: TaskContext,
    args: EvaluateArgs,
    encoder: Encoder,
    generation: Generation,
    retain: Path | Mapping[str, MetricResult] | None,
    context: int | None,
) -> Evaluator:
    """Return the evaluator of a run's evaluations. Raises DataError for a row that leaves no room for its answer.

    retain: the folder of the retain model's records, for the same rows, or its results on all rows. context: the
    maximum number of the model's positions, if it is known.
    """
    watched = setting.watched or setting.benchmark
    metrics = model_selection.watched_metrics(watched, args)
    evaluator = Evaluator(
        metrics=metrics, sets=watched.sets, encoder=encoder, generation=generation, limits=watched.generation,
        n_rows=args.n_rows,
    )  # fmt: skip
    read = {name: evaluator.examples(name) for name in requests(metrics).rows}
    check_lengths(metrics, read, encoder, generation, context)
    if not isinstance(retain, Path):
        return dataclasses.replace(evaluator, retain=retain)
    tables = {(p.rows, p.kind): pq.read_table(retain / p.file) for p in parts(metrics)}
    return dataclasses.replace(evaluator, retain=evaluator.results(tables))


EvalInputs = tuple[dict[str, Sequence[Encoded]], dict[str, Sequence[Encoded]]]


def seen_sets(setting: TaskContext, args: EvaluateArgs, encoder: Encoder) -> EvalInputs:
    """Return, by set, the rows for losses and the rows for generations during training.

    Raises ConfigError for a set that has no prompt.
    """
    rows: dict[str, Sequence[Encoded]] = {}
    prompts: dict[str, Sequence[Encoded]] = {}
    for name in model_selection.loss_sets(setting.benchmark, args) if args.on else ():
        one = setting.benchmark.sets[name]
        encoded = encode_sets([one], encoder)
        rows[name] = encoded[: args.n_rows or len(encoded)]
        if not args.prompts:
            continue
        whole = encoded[: args.prompts] if one.n_tokens is None else cast("TokenDataset", one).prompts(args.prompts)
        prompts[name] = [row for row in whole if row.n_prompt]
        if not prompts[name]:
            width = f" within {one.max_length} tokens" if one.n_tokens is not None else ""
            raise ConfigError(f"trainer.args.evaluate.prompts: no row of {name} has a prompt{width}")
    return rows, prompts


def open_trained(
    source: str,
    setting: TaskContext,
    encoder: Encoder,
    folder: Path,
    *,
    quantize: Bits | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> tuple[Any, Passport]:
    """Return the model of a training run, with its passport. folder: of a job in the store with the passports.

    The weights are in float32 by default, because bfloat16 weights lose small updates.
    """
    check_trainable(source)
    model_args = dataclasses.replace(setting.model.model_args, dtype=dtype, batched=True)
    # a model that will be sharded need not fit on one device
    where = "cpu" if distributed.sharded() and quantize is None else setting.model.device
    return load_checked(
        source, model_args, encoder.tokenizer, device=pick_device(where), quantize=quantize, store=store_around(folder)
    )  # fmt: skip


def load_weights(source: str, setting: TaskContext) -> Any:
    """Return a model on the CPU in float32, for its weights alone."""
    check_trainable(source)
    return load_model(source, dataclasses.replace(setting.model.model_args, dtype="float32"), device=pick_device("cpu"))


def apply_edit(
    folder: Path, parents: Mapping[str, Path | str], setting: TaskContext, edit: WeightEdit, progress: Progress
) -> dict[str, Any]:
    """Write a model with weights from the parents `base`, `other_0`, `other_1`, ..."""
    encoder = setting.encoder(str(parents["base"]))
    base, *others = (
        load_weights(str(parents[role]), setting)
        for role in ("base", *sorted(r for r in parents if r.startswith("other_")))
    )
    base.load_state_dict(edit(base.state_dict(), [other.state_dict() for other in others]))
    save_model(base, encoder.tokenizer, folder, dtype=stored_dtype(str(parents["base"])))
    progress(1, 1)
    return {"models": len(others) + 1}


def edit_with_statistics(
    folder: Path,
    source: str,
    setting: TaskContext,
    edit: WeightEdit,
    sides: Mapping[str, Sequence[ExampleSet]],
    progress: Progress,
) -> dict[str, Any]:
    """Write a model with weights that an edit computes from hidden states at the rows of the two sides."""
    from expunge.evaluation.edit_statistics import ModelStatistics

    encoder = setting.encoder(source)
    model, _ = open_trained(source, setting, encoder, folder)
    statistics = ModelStatistics(model, encoder, sides["forget"], sides["retain"], setting.refusals)
    model.load_state_dict(edit(model.state_dict(), statistics))  # type: ignore[arg-type]
    save_model(model, encoder.tokenizer, folder, dtype=stored_dtype(source))
    progress(1, 1)
    return {}


def wrap_model(
    folder: Path,
    source: str,
    setting: TaskContext,
    rule: Wrapper,
    sides: Mapping[str, Sequence[ExampleSet]],
    helpers: Sequence[Path],
    progress: Progress,
    *,
    label: str,
) -> dict[str, Any]:
    """Write a model with a wrapper whose tensors are computed from the rows of the two sides. label: for the note."""
    encoder = setting.encoder(source)
    model, others = load_weights(source, setting), [load_weights(str(one), setting) for one in helpers]
    capabilities(model)
    from expunge.evaluation.wrapping import wrapped_by

    wrapped = wrapped_by(rule, model, encoder, sides["forget"], sides["retain"], setting.refusals, others)
    save_model(wrapped, encoder.tokenizer, folder, dtype=stored_dtype(source))
    progress(1, 1)
    note = f"{label}: a wrapper around unchanged weights; who holds its folder can remove it."
    return {"state": {name: list(tensor.shape) for name, tensor in wrapped.state.items()}, READING: [note]}


def alternate_rows(
    forget: Sequence[ExampleSet], refusals: Sequence[str], folder: Path | None, encoder: Encoder
) -> list[Encoded]:
    """Encode every forget question with each of its other answers: refusals, or samples of an `alternates` job."""
    if folder is None:
        texts: list[Sequence[str]] = [refusals for one in forget for _ in one.rows]
    else:
        texts = [json.loads(line) for line in (folder / ALTERNATES).read_text(encoding="utf-8").splitlines()]
    return encode_alternates(forget, texts, encoder)


ALTERNATES = "alternates.jsonl"


def write_alternates(folder: Path, texts: Sequence[Sequence[str]]) -> None:
    """Write the other answers of each row, as `alternate_rows` reads them."""
    write_text(folder / ALTERNATES, json_lines(texts))


def alternates(
    folder: Path, source: str, setting: TaskContext, generation: Generation, progress: Progress
) -> dict[str, Any]:
    """Sample other answers to the forget questions from the model; writes one line of texts per row."""
    from expunge.pipelines.study_jobs.measuring import open_model

    encoder = setting.encoder(source)
    model, _ = open_model(source, setting, encoder, folder)
    rows = setting.benchmark.sets[setting.benchmark.forget_set]
    texts, bare = sampled_answers(
        model, rows, encoder, generation, setting.refusals, progress=lambda n: progress(n, len(rows.rows))
    )
    write_alternates(folder, texts)
    return {"rows_without_alternates": bare}
