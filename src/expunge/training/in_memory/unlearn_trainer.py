"""`UnlearnTrainer`: unlearning of a model in memory, with the conventions of TRL's trainers."""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from expunge.benchmarks.in_memory import check_disjoint, in_memory_benchmark
from expunge.core import distributed
from expunge.core.errors import ConfigError, DataError, as_path, kind_of
from expunge.core.hub import card, create, upload
from expunge.core.on_use import transformers
from expunge.data.encoder import Encoded
from expunge.data.examples import ExampleSet
from expunge.data.in_memory import examples_from
from expunge.data.refusals import REFUSALS
from expunge.evaluation.evaluator import EvalTask, evaluate_task, resolve_generation
from expunge.evaluation.result import EvalResult
from expunge.models.adapters import save_to_share
from expunge.models.capabilities import kept_modes
from expunge.models.folder_files import model_files
from expunge.models.load import load_named, save_model
from expunge.models.packed import find_module
from expunge.training.callbacks import CallbackBridge
from expunge.training.checkpoint import kept_random
from expunge.training.config import TrainArgs
from expunge.training.encoding import (
    check_rows,
    check_span,
    encode_alternates,
    encode_sets,
    encoder_for,
    sampled_answers,
    sampling_of_alternates,
    warn_truncated,
)
from expunge.training.in_memory.references import references_of, teacher_references
from expunge.training.in_memory.unlearn_config import UnlearnConfig
from expunge.training.in_memory.unlearn_inputs import (
    check_callbacks,
    check_metrics,
    check_reference,
    eval_roles,
    model_to_train,
    reporting_callbacks,
    repository_of,
    settings_named,
    shown_arguments,
    shows_progress,
    tokenizer_of,
)
from expunge.training.in_memory.unlearn_objective import resolve_objective
from expunge.training.loop import train
from expunge.training.lora import with_adapters, with_lora
from expunge.training.optimizers import weights_dtype
from expunge.training.phases import check_run, plan_phases, read_modules
from expunge.training.rollouts import rollout_source
from expunge.training.trainable import full_precision
from expunge.training.trainer import training_arguments

log = logging.getLogger(__name__)


class UnlearnTrainer:
    """A trainer that makes a causal language model forget examples, in memory.

    The model object is trained in place, as TRL does, and is in evaluation mode afterwards. Nothing is written to disk
    unless you call `save_model` or set `report_to` or `push_to_hub`. The same seed and data give the same weights on
    the same machine.

    Args:
        model: A causal language model on any device, or the name of one (a folder or a hub id). Weights in bfloat16 or
            float16 are converted to float32 for training and converted back afterwards.
        args: The settings: `UnlearnConfig`, or a method's own class such as `NPOConfig(beta=0.1)`.
        forget_dataset: The examples to forget: a list of dicts, a `datasets.Dataset`, a DataFrame or an `ExampleSet`,
            with question and answer, prompt and completion, messages, or text.
        retain_dataset: The examples to keep; None for methods without a retain term, and with `alpha=0`.
        eval_dataset: The data of `evaluate()`: a benchmark (`load_benchmark`), or a mapping of "forget", "retain" and
            "holdout" to data. None: the forget and retain examples.
        processing_class: The tokenizer. None: the one next to the model's files.
        peft_config: A peft configuration; adapters are then trained, and `trainer.model` is the peft model.
        ref_model: The model that reference terms compare with. None: the model before its first step.
        callbacks: transformers' callbacks, as objects or classes.
        method: The method, if `args` does not name it: a name, a settings object, a method class or object, or a
            function decorated with `unlearning_loss`.

    Raises:
        ConfigError: If a setting is wrong, before any weight is read.
        DataError: If the data is empty or cannot be read, or a row is on both sides.
    """

    def __init__(
        self,
        model: Any,
        args: UnlearnConfig | None = None,
        *,
        forget_dataset: Any = None,
        retain_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        peft_config: Any = None,
        ref_model: Any = None,
        callbacks: Sequence[transformers.TrainerCallback | type[transformers.TrainerCallback]] = (),
        method: Any = None,
    ) -> None:
        if args is not None and not isinstance(args, UnlearnConfig):
            raise ConfigError(f"args: expected an UnlearnConfig, got {kind_of(args)}")
        self.args = args or (method if isinstance(method, UnlearnConfig) else UnlearnConfig())
        self.objective = resolve_objective(self.args, None if method is self.args else method)
        self.train_args = self._loop_args()
        check_run(self.objective, self.train_args, type(self.args).__name__)
        self._check_adapters(peft_config)
        self.forget_dataset, self.retain_dataset = self._datasets(forget_dataset, retain_dataset)
        self.eval_dataset = eval_roles(eval_dataset)
        if self.args.eval_metrics is not None or self.args.metric_for_best_model is not None:
            check_metrics(self.args, self._eval_task(self.eval_dataset))
        reporting = reporting_callbacks(self.args)
        check_callbacks(callbacks, self.args)
        if self.args.push_to_hub:
            name, none = repository_of(self.args), "nothing is trained yet"
            create(name, "model", private=self.args.hub_private_repo, option="push_to_hub", complete=none)

        self.processing_class = tokenizer_of(model, processing_class)
        self.model = model_to_train(model)
        self.ref_model = None if ref_model is None else load_named(ref_model, "ref_model")
        check_reference(self.model, self.ref_model)
        self.encoder = encoder_for(self.processing_class, self.args.template)
        self._rows = self._encode()
        self._rollouts = None
        if self.objective.needs.rollout is not None and self.forget_dataset is not None:
            both = "retain" in self.objective.needs.rollout_sides
            others = [self.retain_dataset] if both and self.retain_dataset is not None else []
            self._rollouts = rollout_source([self.forget_dataset], self.encoder, others)
        if peft_config is not None:
            self.model = with_adapters(self.model, peft_config, self.train_args.seed)
        elif self.train_args.lora is not None:
            with settings_named(self.args):
                self.model = with_lora(self.model, self.train_args.lora, self.train_args.seed)
        shown = [transformers.trainer.DEFAULT_PROGRESS_CALLBACK] if shows_progress(self.args.disable_tqdm) else []
        self._bridge = CallbackBridge(
            [*shown, *reporting, *callbacks],
            args=shown_arguments(transformers.TrainingArguments(use_cpu=self._device.type == "cpu"), self.args, ""),
            model=self.model,
            processing_class=self.processing_class,
        )
        self._bridge.call("on_init_end")

    # Settings and data.

    def _loop_args(self) -> TrainArgs:
        """Return the settings of the loop. A step's micro-batches are those of all processes."""
        args = self.args.train_args()
        steps = args.gradient_accumulation_steps * distributed.here().world
        return dataclasses.replace(args, gradient_accumulation_steps=steps)

    def _check_adapters(self, peft_config: Any) -> None:
        args, where = self.train_args, type(self.args).__name__
        if args.lora is not None and args.lora.orthogonal:
            raise ConfigError(
                f"{where}.lora.orthogonal: a model in memory has no adapters of earlier requests; use a study with "
                "requests, or leave it out"
            )
        if peft_config is None:
            if self.objective.spec.teacher == "start" and args.lora is not None:
                raise ConfigError(f"{where}.lora: {self.objective.spec.name} changes the weights before it trains them")
            return
        if args.lora is not None:
            raise ConfigError(f"{where}.lora: peft_config is set as well; give one of them")
        if not hasattr(peft_config, "peft_type"):
            raise ConfigError(f"peft_config: expected a configuration of peft, got {kind_of(peft_config)}")
        task = getattr(peft_config, "task_type", None)
        if task not in (None, "CAUSAL_LM"):
            kind = getattr(task, "value", task)
            raise ConfigError(f'peft_config.task_type: {kind} is for other models; use "CAUSAL_LM", or leave it out')
        own: tuple[str, ...] = getattr(self.objective.method, "trainable_params_regex", (".*",))
        if args.trainable_last_k_layers or args.trainable_params_regex or own != (".*",):
            raise ConfigError(f"{where}: peft_config trains only adapters; leave trainable_* out")
        if self.objective.spec.teacher == "start":
            raise ConfigError(f"peft_config: {self.objective.spec.name} changes the weights before it trains them")

    def _datasets(self, forget: Any, retain: Any) -> tuple[ExampleSet | None, ExampleSet | None]:
        """Return the examples of both sides. Raises ConfigError if a side that the method reads is missing."""
        name = self.objective.spec.name
        if self.objective.forgets and forget is None:
            raise ConfigError(f"forget_dataset: missing; {name} needs the examples to forget")
        if not self.objective.forgets and forget is not None:
            raise ConfigError(f"forget_dataset: {name} forgets nothing; pass the examples to learn as retain_dataset")
        if self.objective.needs.retain is None and self.objective.needs.reads("retain") and retain is None:
            raise ConfigError(
                f"retain_dataset: missing; {name} answers the questions to keep, too; give examples of them"
            )
        if self.objective.needs.retain is not None and retain is None:
            raise ConfigError(
                f"retain_dataset: missing; {name} has a retain term with these settings. Give examples to keep, or set "
                "alpha=0 to forget without a retain term"
            )
        sides = [None if data is None else examples_from(data, side) for side, data in
                 (("forget", forget), ("retain", retain))]  # fmt: skip
        check_disjoint({s.name: s for s in sides if s is not None})
        return sides[0], sides[1]

    def _encode(self) -> dict[str, Sequence[Encoded]]:
        """Return the token ids of each side that the method reads; alternate answers follow when training starts."""
        if self.objective.needs.alternate is not None and getattr(self.forget_dataset, "form", "qa") == "text":
            raise DataError(
                f"forget: {self.objective.spec.name} reads alternate answers to questions, but these are plain texts; "
                "give examples with question and answer"
            )
        sides = {"forget": self.forget_dataset, "retain": self.retain_dataset}
        needs = self.objective.needs
        read = {"forget": self.objective.forgets, "retain": needs.reads("retain")}
        forget = [] if self.forget_dataset is None else [self.forget_dataset]
        where, alternates = f"{type(self.args).__name__}.train_on", bool(needs.alternate or needs.rollout)
        check_span(
            forget, self.train_args.train_on, forgets=self.objective.forgets, alternates=alternates, where=where,
            marks=needs.marks,
        )  # fmt: skip
        rows = {
            side: encode_sets([of], self.encoder, self.train_args.span_of(side), needs.marks_of(side))
            for side, of in sides.items()
            if of is not None and read[side]
        }
        for side, of in sides.items():
            if of is not None and side in rows and of.long != "pieces":
                warn_truncated(of, rows[side], self.encoder)
        check_rows(self.model, rows)
        return rows

    # Training.

    def train(self) -> transformers.trainer_utils.TrainOutput:
        """Train the model in place. The states of all random generators are restored.

        Returns:
            Steps done, the mean of the logged losses (nats), and the speed.

        Raises:
            JobError: If the loss is not finite or exceeds its limit. The model then has the weights of that step.
        """
        args = self.train_args
        if not torch.is_grad_enabled():
            raise ConfigError("train: gradients are off; call it outside torch.no_grad() and torch.inference_mode()")
        if weights_dtype(args.optim) != "float32":
            raise ConfigError(
                f"{type(self.args).__name__}.optim: {args.optim} trains bfloat16 weights, which models in memory do "
                "not keep; use it on the command line"
            )
        for module in read_modules(self.objective, type(self.args).__name__):
            find_module(self.model, module.value.partition(":")[0], key=module.key)
        # transformers' Trainer sets seeds
        with settings_named(self.args), kept_random(), full_precision(self.model), self._scratch() as folder:
            rows = self._with_alternates()
            pad_id = int(self.encoder.tokenizer.pad_token_id)
            references = {}
            if self.ref_model is not None:
                self.ref_model.to(self._device)
                references = references_of(self.ref_model, self.objective, rows, args, pad_id=pad_id)
            references |= teacher_references(self.model, self.objective, rows, args, pad_id=pad_id)
            self._begin(rows, args, folder)
            try:
                done = train(
                    self.model, self.objective, rows, args, pad_id=pad_id, references=references,
                    logged=self._bridge.logged, after_step=self._after_step, callbacks=self._bridge,
                    rollouts=self._rollouts,
                )  # fmt: skip
            finally:
                self._bridge.end()
                self.model.zero_grad(set_to_none=True)
                self.model.eval()
        if self.args.push_to_hub:
            self._push_after_training()
        losses = [line["loss"] for line in done.history]
        mean = math.fsum(losses) / len(losses) if losses else math.nan
        return transformers.trainer_utils.TrainOutput(done.n_steps, mean, {"train_loss": mean, **done.speed})

    @property
    def _device(self) -> torch.device:
        device: torch.device = next(self.model.parameters()).device
        return device

    def _with_alternates(self) -> dict[str, Sequence[Encoded]]:
        """Return the rows of all sides, with alternate answers to the forget questions if the method reads them."""
        if self.objective.needs.alternate is None or self.forget_dataset is None:
            return self._rows
        refusals = self.args.refusals or REFUSALS
        texts: Sequence[Sequence[str]] = [refusals] * len(self.forget_dataset)
        if getattr(self.objective.method, "ALTERNATES", "") == "generated":
            with kept_random():
                how = sampling_of_alternates(resolve_generation(self.args.generation))
                texts, _ = sampled_answers(self.model, self.forget_dataset, self.encoder, how, refusals)
        alternates = encode_alternates([self.forget_dataset], texts, self.encoder)
        check_rows(self.model, {"alternate": alternates})
        return {**self._rows, "alternate": alternates}

    @contextmanager
    def _scratch(self) -> Iterator[str]:
        """Yield a folder for the files of integrations: `output_dir`, or one that is removed after the run."""
        if self.args.output_dir is not None:
            yield str(Path(self.args.output_dir).expanduser())
            return
        with tempfile.TemporaryDirectory() as folder:
            yield folder

    def _begin(self, rows: Mapping[str, Sequence[Encoded]], args: TrainArgs, folder: str) -> None:
        """Send the length of the run to the callbacks."""
        phases = plan_phases(self.objective, rows, args)
        arguments = training_arguments(phases[0], args.seed, folder, self.model)
        steps = sum(phase.n_steps for phase in phases)
        epochs = math.ceil(sum(len(phase.samples) / phase.n_epoch for phase in phases))
        arguments.num_train_epochs, arguments.max_steps = epochs, steps
        self._bridge.begin(shown_arguments(arguments, self.args, self.objective.spec.name), max_steps=steps,
                           num_train_epochs=epochs)  # fmt: skip
        if self.args.eval_on_start:
            with kept_random():
                self.evaluate()

    def _after_step(self) -> bool:
        """Evaluate if it is due, or if a callback requests it. Return whether the run should end."""
        state, control = self._bridge.state, self._bridge.control
        due = control.should_evaluate
        if self.args.eval_strategy == "steps":
            due = due or state.global_step % (self.args.eval_steps or state.logging_steps) == 0
        if self.args.eval_strategy == "epoch":
            due = due or self._bridge.epoch_ended
        control.should_evaluate = False
        if due:
            with kept_random(), kept_modes(self.model):
                self.evaluate()
        if control.should_save:
            control.should_save = False
            log.warning("a callback requests a checkpoint; runs in memory write none. Call save_model in the callback")
        return bool(control.should_training_stop)

    # Evaluation.

    def evaluate(self, eval_dataset: Any = None, *, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Measure the model on the evaluation data.

        Args:
            eval_dataset: As in the constructor. None: that one, or else the forget and retain examples.
            metric_key_prefix: The first part of each metric's name.

        Returns:
            The metrics by name. They are also added to `state.log_history` and sent to the callbacks.
        """
        result = self.evaluation(eval_dataset)
        metrics = {f"{metric_key_prefix}_{name}": float(value) for name, value in result.items()}
        self._bridge.evaluated(metrics)
        return metrics

    def evaluation(self, eval_dataset: Any = None) -> EvalResult:
        """Return the whole result of an evaluation (`EvalResult`), without adding it to the log."""
        task = self._eval_task(self.eval_dataset if eval_dataset is None else eval_roles(eval_dataset))
        with settings_named(self.args):
            return evaluate_task(
                self.model, self.encoder.tokenizer, task, template=self.encoder.template,
                generation=self.args.generation, metrics=self.args.eval_metrics,
            )  # fmt: skip

    def _eval_task(self, roles: Mapping[str, Any] | None) -> EvalTask:
        roles = roles or {"forget": self.forget_dataset, "retain": self.retain_dataset}
        task: EvalTask = roles["benchmark"] if "benchmark" in roles else in_memory_benchmark(**roles)
        return task

    # Callbacks, the log, and saving.

    @property
    def state(self) -> Any:
        """The TrainerState of transformers for the whole run: `global_step`, `epoch`, `log_history`."""
        return self._bridge.state

    @property
    def control(self) -> Any:
        """The TrainerControl of transformers."""
        return self._bridge.control

    def add_callback(self, callback: transformers.TrainerCallback | type[transformers.TrainerCallback]) -> None:
        """Add a callback, as an object or a class."""
        check_callbacks([callback], self.args)
        self._bridge.handler.add_callback(callback)

    def pop_callback(
        self, callback: transformers.TrainerCallback | type[transformers.TrainerCallback]
    ) -> transformers.TrainerCallback | None:
        """Remove a callback and return it; None if it is not there."""
        removed: transformers.TrainerCallback | None = self._bridge.handler.pop_callback(callback)
        return removed

    def remove_callback(self, callback: transformers.TrainerCallback | type[transformers.TrainerCallback]) -> None:
        """Remove a callback."""
        self._bridge.handler.remove_callback(callback)

    def save_model(self, output_dir: str | Path | None = None) -> Path:
        """Write the model (only the adapters, if the run trained them) and the tokenizer as a Hugging Face folder.

        Args:
            output_dir: The folder. None: `args.output_dir`.

        Returns:
            The folder.

        Raises:
            ConfigError: If neither names a folder.
        """
        target = output_dir or self.args.output_dir
        if target is None:
            raise ConfigError("save_model: name a folder, or set output_dir in the settings")
        folder = as_path(target, "save_model", folder=True)
        save_model(self.model, self.processing_class, folder)
        return folder

    def push_to_hub(self, repo_id: str | None = None, *, commit_message: str = "Upload an unlearned model") -> str:
        """Upload the model, the tokenizer and a card to the Hugging Face Hub, in one commit.

        Adapters are uploaded as such if their base model is on the hub, else merged into a copy of the model.

        Args:
            repo_id: The repository. None: `args.hub_model_id`, or the name of `args.output_dir`.
            commit_message: Message of the commit.

        Returns:
            The repository's name.

        Raises:
            ConfigError: If no repository is named, or the name is wrong.
            JobError: If the hub cannot be reached, or refuses the files.
        """
        name = repository_of(self.args, repo_id)
        with tempfile.TemporaryDirectory() as folder:
            complete = "the model in memory is trained: call push_to_hub again"
            self._upload(name, Path(folder), complete, message=commit_message)
        return name

    def _push_after_training(self) -> None:
        """Upload the model; if the hub refuses it, its files stay in a folder, because the caller may have no model."""
        name = repository_of(self.args)
        place = None if self.args.output_dir is None else Path(self.args.output_dir).expanduser()
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=f"{name.rpartition('/')[2]}-", dir=place)
        self._upload(name, Path(folder), f"the trained model is in {folder}: `hf upload {name} {folder}` uploads it")
        shutil.rmtree(folder)

    def _upload(self, name: str, folder: Path, complete: str, message: str = "Upload an unlearned model") -> None:
        """Save the model and the tokenizer into an empty folder, and upload them with a card in one commit."""
        save_to_share(self.model, self.processing_class, folder)
        upload(
            name, "model", model_files(folder), self._card(name), private=self.args.hub_private_repo,
            option="push_to_hub", message=message, complete=complete,
        )  # fmt: skip

    def _card(self, name: str) -> str:
        """Return the card of the model: method, settings, rows and steps."""
        facts = {
            "method": self.objective.spec.name,
            "examples": ", ".join(f"{side}: {len(rows)}" for side, rows in self._rows.items()),
            "steps": str(self.state.global_step),
            "learning rate": f"{self.args.learning_rate:g}",
            "seed": str(self.args.seed),
        }
        about = ["`expunge.UnlearnTrainer` unlearned the examples to forget. This card contains no measurement."]
        return card(name.rpartition("/")[2], ["unlearning"], about, facts)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{side} {len(rows)}" for side, rows in self._rows.items())
        return (
            f"UnlearnTrainer({type(self.model).__name__}, method={self.objective.spec.name}, {sizes}, "
            f"step {self.state.global_step})"
        )
