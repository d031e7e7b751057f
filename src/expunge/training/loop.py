"""The one training loop: fine-tuning and every unlearning method, over transformers.Trainer.

The order of samples is planned before the first step (`training.phases`), so the Trainer reads them in sequence; the
loss is the method's own, served by `training.batching`. The loss of a step is the mean over its micro-batches, which
several processes share (`training.data_parallel`).
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.core import distributed
from expunge.core.errors import JobError
from expunge.core.on_use import transformers
from expunge.data.encoder import Encoded
from expunge.evaluation.observation import capabilities
from expunge.methods.api import Requirements
from expunge.methods.objective import Objective
from expunge.models.capabilities import kept_use_cache, padding_id
from expunge.models.dtypes import training_note
from expunge.training.batching import LossInputBuilder
from expunge.training.checkpoint import Checkpoints, State
from expunge.training.config import TrainArgs
from expunge.training.data_parallel import gather_whole, rank_batches
from expunge.training.optimizers import optimizer_class
from expunge.training.phases import ROLLOUT, SIDES, Phase, TrainingSample, plan_phases, spec_for
from expunge.training.reference import Reference, ResidentReference, reference
from expunge.training.run_state import AfterStep, Logged, PhasePosition, Progress, RunState, TrainResult
from expunge.training.throughput import ThroughputMeter, step_flops
from expunge.training.trainer import PhaseTrainer, StepCallback, as_batch, training_arguments

if TYPE_CHECKING:
    from expunge.training.callbacks import CallbackBridge
    from expunge.training.in_memory.evaluation_callback import EvalCallback
    from expunge.training.rollouts import RolloutSampler, RolloutSource

log = logging.getLogger(__name__)


def train(
    model: Any,
    objective: Objective,
    rows: Mapping[str, Sequence[Encoded]],
    args: TrainArgs,
    *,
    pad_id: int,
    references: Mapping[str, Reference] | None = None,
    progress: Progress | None = None,
    watch: EvalCallback | None = None,
    checkpoints: Path | None = None,
    logged: Logged | None = None,
    after_step: AfterStep | None = None,
    keep_model: Callable[[int], None] | None = None,
    callbacks: CallbackBridge | None = None,
    rollouts: RolloutSource | None = None,
    regulariser: Callable[[], Any] | None = None,
) -> TrainResult:
    """Train `model` in place on encoded rows of the sides "forget" and "retain".

    Args:
        model: A causal language model; with `args.lora` already wrapped (`training.lora.with_lora`).
        objective: The method's loss with its weights.
        rows: The encoded rows by side. `rows["alternate"]`, for methods that read it, lists the same number of other
            answers for each forget row in turn.
        args: The settings of the loop.
        pad_id: The token id of padded positions.
        references: Precomputed outputs of the model before unlearning, by side, and of a teacher, by `<side>_teacher`.
            Missing outputs of `model` are computed before its first step, bit for bit the same, but not a teacher's.
        progress: Receives (steps done, steps of the run).
        watch: Evaluates the model during the run, and may stop it. It does not change the training.
        checkpoints: A folder of this run alone. A run resumes from the checkpoint of an unfinished attempt, to the same
            bits on the same machine. SIGINT and SIGTERM then end the run after the current step.
        logged: Receives each line of the log with its speed.
        after_step: Called after each step and its evaluation; True ends the run.
        keep_model: Called with the number of a step after which `args.save_strategy` keeps the model.
        callbacks: Receives the events of every phase for transformers' callbacks.
        rollouts: The forget questions, for methods that sample texts from the model.
        regulariser: A term of the weights alone, which is added to the loss.

    Returns:
        The number of steps, the log, the evaluations and the speed.

    Raises:
        JobError: If the loss is not finite or exceeds `args.max_loss`, or a method lacks its rollouts.
        ConfigError: If a gradient transform or a parameter mask does not fit the method or the model.
        KeyboardInterrupt: After a signal, once the checkpoint is written.
    """
    if note := training_note(distributed.trained_on(model).type, args.bf16):
        log.warning(note)
    capabilities(model)  # observed before the first pass, which reads it
    sampler = _sampler(model, objective, rollouts, args.seed)
    pad_id = padding_id(model, pad_id)
    phases = plan_phases(objective, rows, args)
    _freeze(model, objective, args)
    known_references = _references(model, objective, rows, [p.samples for p in phases], args, pad_id, references or {})
    meter = ThroughputMeter(step_flops(model, args.peak_tflops, half=args.bf16 or args.fp16))
    run = RunState(
        model, len(phases), watch, progress, meter, logged, after_step=after_step, callbacks=callbacks,
        keep_model=keep_model, regulariser=regulariser,
    )  # fmt: skip
    _load_checkpoint(run, checkpoints, args)
    place = PhasePosition(n_phases=len(phases), steps_after=sum(p.n_steps for p in phases))
    done_before = run.begin()

    # Outside a forward the head's weights are in shards, so chunks cannot read them.
    logits_chunk_size = 0 if distributed.sharded() else args.logits_chunk_size

    def serve(needs: Requirements) -> LossInputBuilder:
        return LossInputBuilder(
            needs,
            rows,
            known_references,
            pad_id=pad_id,
            logits_chunk_size=logits_chunk_size,
            reading=meter.read,
            rollouts=sampler,
        )

    with (
        _changed(model, args),
        tempfile.TemporaryDirectory() as scratch,
        run.checkpoints.stoppable() if run.checkpoints else nullcontext(),
    ):
        for phase in phases:
            place = place.enter(phase)
            if place.number < done_before.number:
                continue
            place = dataclasses.replace(place, steps_before=max(place.steps_before, done_before.steps_before))
            state = run.resume_state if run.resume_state and place.number == done_before.number else None
            trainer = _trainer(run, phase, place, state, serve, place.seed(args.seed), scratch)
            trainer.train()
            run.history += trainer.history
            place = place.leave(int(trainer.state.global_step))
            run.leave(place)
            if run.stopped:
                break
            if place.number < place.n_phases:
                trainer.let_go()
    model.eval()
    selected = watch.end(model) if watch else {}
    if distributed.sharded():
        gather_whole(trainer.accelerator, trainer.model_wrapped, model)
    n_steps = max(place.steps_before, done_before.steps_before)
    points = watch.points if watch else []
    return TrainResult(n_steps, run.history, points, selected, run.resumed_at, meter.facts(), meter.lines)


def _load_checkpoint(run: RunState, folder: Path | None, args: TrainArgs) -> None:
    """Set the folder of the run's checkpoints, and load the newest one of an earlier attempt."""
    if folder is None or args.checkpoint is None:
        return
    if distributed.sharded() == "deepspeed":
        log.warning("no checkpoints are written under DeepSpeed: an interrupted run starts again from the beginning")
        return
    run.checkpoints = Checkpoints(folder, args.checkpoint, shards=bool(distributed.sharded()))
    run.resume_state = run.checkpoints.load(run.fits, run.device)


def _trainer(
    run: RunState,
    phase: Phase,
    place: PhasePosition,
    state: State | None,
    serve: Callable[[Requirements], LossInputBuilder],
    seed: int,
    scratch: str,
) -> PhaseTrainer:
    """Return the Trainer of a phase. state: the checkpoint within the phase to resume from."""
    rows = phase.samples[state["n_read"] if state else 0 :]
    with kept_use_cache(run.model):
        trainer = PhaseTrainer(
            model=run.model,
            args=training_arguments(phase, seed, scratch, run.model),
            train_dataset=rank_batches(rows, phase.args, distributed.here()),
            data_collator=as_batch,
            optimizer_cls_and_kwargs=optimizer_class(phase.args, distributed.trained_on(run.model).type),
        )
    trainer.prepare(phase, serve(phase.objective.needs), place, run)
    if phase.step is not None:
        trainer.wrap(phase.step, serve)
    trainer.resume_from(state)
    if run.callbacks is not None:  # first, so that their requests are known when the step is evaluated
        trainer.add_callback(run.callbacks.of_phase(trainer))
    trainer.add_callback(StepCallback(trainer))
    trainer.remove_callback(transformers.PrinterCallback)
    return trainer


def _sampler(model: Any, objective: Objective, rollouts: RolloutSource | None, seed: int) -> RolloutSampler | None:
    """Return the sampler of a method that reads rollouts. Raises JobError if the run has no questions for it."""
    if objective.needs.rollout is None:
        return None
    from expunge.training.rollouts import RolloutSampler

    if rollouts is None:
        raise JobError(f"{objective.spec.name} samples texts, but the run has no questions (rollouts)")
    return RolloutSampler(model, objective.method.rollouts, rollouts, seed)


@contextmanager
def _changed(model: Any, args: TrainArgs) -> Iterator[None]:
    """Train with dropout, compiled layers and checkpointing inside this context, if the settings say so."""
    with ExitStack() as changes:
        if args.activation_checkpointing:
            from expunge.models.kept_checkpointing import kept_checkpointing

            changes.enter_context(kept_checkpointing(model))
        if args.dropout:
            from expunge.training.dropout import with_dropout

            changes.enter_context(with_dropout(model, args.dropout))
        if args.compile:
            from expunge.training.compiled import compiled_layers

            changes.enter_context(compiled_layers(model))
        yield


def _freeze(model: Any, objective: Objective, args: TrainArgs) -> None:
    """Freeze the parameters that the settings or the method leave out. Raises ConfigError if a pattern fits none."""
    patterns = args.trainable_params_regex or _own_patterns(objective, args)
    if args.trainable_last_k_layers or patterns:
        from expunge.training.trainable import set_trainable

        set_trainable(model, last_k_layers=args.trainable_last_k_layers, params_regex=patterns)


def _own_patterns(objective: Objective, args: TrainArgs) -> tuple[str, ...]:
    """Return the parameters that the method's own settings name (RMU); none with adapters, which replace the choice."""
    own: tuple[str, ...] = getattr(objective.method, "trainable_params_regex", ())
    return () if args.lora is not None or own == (".*",) else own


def plan_samples(objective: Objective, rows: Mapping[str, Sequence[Encoded]], args: TrainArgs) -> list[TrainingSample]:
    """Return every sample of the run, in order: a function of the seed and the rows alone."""
    return [sample for phase in plan_phases(objective, rows, args) for sample in phase.samples]


def _references(
    model: Any,
    objective: Objective,
    rows: Mapping[str, Sequence[Encoded]],
    samples: Sequence[Sequence[TrainingSample]],
    args: TrainArgs,
    pad_id: int,
    known: Mapping[str, Reference],
) -> dict[str, Reference]:
    """Add the missing references of the model before unlearning. Raises JobError if a teacher's are missing."""
    out = dict(known)
    for side in SIDES:
        spec = spec_for(objective.needs, side, ref=True)
        if spec is not None and side not in out:
            numbers = [i for phase in samples for sample in phase for i in sample.numbers(side)]
            out[side] = reference(model, rows[side], numbers, spec, pad_id=pad_id, topk=args.topk)
        if spec_for(objective.needs, side, teacher=True) is not None and f"{side}_teacher" not in out:
            raise JobError(f"{objective.spec.name} learns from a teacher, but the {side} rows have no teacher outputs")
    if (spec := spec_for(objective.needs, ROLLOUT, ref=True)) is not None:
        out[ROLLOUT] = ResidentReference(model, spec)
    return out
