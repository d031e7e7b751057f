"""OpenUnlearning's words of a command line as words of Expunge.

A word is translated, or named in a note if it changes no result, or refused with the word to type instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from expunge.core.errors import ConfigError, nearest
from expunge.interop.open_unlearning.datasets import BENCHMARKS, DATASETS
from expunge.models.options import KINDS, Kind

RENAMED: Mapping[str, str] = {
    "trainer.args.gradient_checkpointing": "trainer.args.activation_checkpointing",
    "trainer.args.warmup_ratio": "trainer.args.warmup_steps",
    "trainer.args.metric_for_best_model": "trainer.args.evaluate.rule.forget",
    "trainer.args.eval_on_start": "trainer.args.evaluate.at_start",
    "eval.tofu.retain_logs_path": "retain_logs_path",
    "eval.tofu.forget_split": "forget_split",
    "eval.tofu.holdout_split": "holdout_split",
    "eval.tofu.retain_split": "retain_split",
    "eval.tofu.question_key": "data.args.question_key",
    "eval.muse.retain_logs_path": "retain_logs_path",
    "eval.muse.data_split": "data_split",
    "question_key": "data.args.question_key",
    "data_sub_set": "train_split",
    "eval.lm_eval.simple_evaluate_args.batch_size": "eval.lm_eval.batch_size",
    "eval.lm_eval.simple_evaluate_args.num_fewshot": "eval.lm_eval.num_fewshot",
    "eval.lm_eval.simple_evaluate_args.limit": "eval.lm_eval.limit",
    "eval.lm_eval.simple_evaluate_args.apply_chat_template": "eval.lm_eval.apply_chat_template",
    "eval.lm_eval.simple_evaluate_args.system_instruction": "eval.lm_eval.system_instruction",
    "model.model_args.torch_dtype": "model.model_args.dtype",
    "data.anchor": "trainer.args.anchor",
}


def _of_models(table: Callable[[Kind], Mapping[str, str]]) -> dict[str, str]:
    """Return a table of the arguments of from_pretrained, by their words."""
    return {f"model.{group}.{name}": why for group, kind in KINDS.items() for name, why in table(kind).items()}


_SPEED = "it changes the speed only"
_BUDGET = "scoring fills its batches by a token budget"
_IDENTITY = "a result is identified by its settings"
# Words that change no result here, with the reason.
WITHOUT_EFFECT: Mapping[str, str] = {
    "trainer.args.per_device_eval_batch_size": _BUDGET,
    "trainer.args.save_total_limit": "every model that trainer.args.save_strategy keeps stays",
    "trainer.args.save_only_model": "a saved model has no optimizer state",
    "trainer.args.save_safetensors": "models are always safetensors",
    "trainer.args.bf16_full_eval": "scoring follows model.model_args.dtype",
    "trainer.args.fp16_full_eval": "scoring follows model.model_args.dtype",
    "trainer.args.logging_dir": "the log is next to the model",
    "trainer.args.logging_strategy": "the log is next to the model",
    "trainer.args.output_dir": "paths.output_dir sets the place of the result",
    "trainer.args.do_eval": "`expunge unlearn` measures its model once, at the end",
    "trainer.args.remove_unused_columns": "batches contain the columns that the method needs",
    "trainer.args.ddp_find_unused_parameters": "no parameter of a loss is unused",
    "trainer.args.overwrite_output_dir": "nothing is overwritten",
    "trainer.args.no_cuda": "model.device sets the device",
    "trainer.args.use_cpu": "model.device sets the device",
    "trainer.args.dataloader_num_workers": _SPEED,
    "trainer.args.dataloader_pin_memory": _SPEED,
    "trainer.args.dataloader_persistent_workers": _SPEED,
    "trainer.args.dataloader_prefetch_factor": _SPEED,
    "trainer.args.log_on_each_node": "the first process writes the log",
    "trainer.args.log_level": "the log is next to the model",
    "trainer.args.run_name": "task_name names the run",
    "trainer.args.disable_tqdm": "-q turns progress off",
    "trainer.method_args.loss_names": "PDU has these two losses",
    "eval.tofu.batch_size": _BUDGET,
    "eval.tofu.overwrite": _IDENTITY,
    "eval.tofu.output_dir": "paths.output_dir sets the place of the result",
    "eval.muse.batch_size": _BUDGET,
    "eval.muse.overwrite": _IDENTITY,
    "eval.muse.output_dir": "paths.output_dir sets the place of the result",
    "eval.lm_eval.overwrite": _IDENTITY,
    **_of_models(lambda kind: kind.without_effect),
    "collator": "padding is never read",
    "hydra.run.dir": "paths.output_dir sets the place of the result",
}

_PUSH = "write the option --push OWNER/NAME, or use UnlearnTrainer.push_to_hub()"
_REFERENCE = "the reference attack reads the losses that a model's evaluation has: retain_logs_path=ITS_TOFU_EVAL.json"
_LAUNCH = "start several processes by `accelerate launch --config_file FILE -m expunge ...` (see docs/training.md)"
# Words that cannot act here, with the words to type instead.
REFUSED: Mapping[str, str] = {
    "eval.tofu.metrics.mia_reference.reference_model_path": _REFERENCE,
    "eval.muse.metrics.mia_reference.reference_model_path": _REFERENCE.replace("TOFU", "MUSE"),
    "trainer.args.deepspeed": _LAUNCH,
    "trainer.args.fsdp": _LAUNCH,
    "trainer.args.hub_model_id": _PUSH,
    "trainer.args.hub_private_repo": _PUSH,
    "trainer.args.hub_strategy": _PUSH,
    "trainer.args.hub_token": _PUSH,
    "trainer.args.resume_from_checkpoint": "run the same command again: an unfinished job resumes by itself",
    "trainer.args.lr_scheduler_kwargs": "leave it out; the schedules have transformers' own constants",
    **_of_models(lambda kind: kind.refused),
}
REFUSED_GROUPS: Mapping[str, str] = {
    "eval.tofu.metrics.": "choose metrics by eval.metrics=[NAME,...], and change generations by eval.generation.*",
    "eval.muse.metrics.": "choose metrics by eval.metrics=[NAME,...], and change generations by eval.generation.*",
    "hydra.job.": "only hydra.run.dir is read; paths.output_dir and task_name replace the others",
    "hydra.sweep.": "only hydra.run.dir is read; `--multirun` and paths.output_dir replace the others",
}
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0", "null", "none", "")
METRICS = {"forget_Truth_Ratio": "forget_truth_ratio"}  # names of files -> names in results
METRIC_GROUPS = {"mia_gradnorm": "gradnorm", "forget_Q_A_gibberish": "fluency", "forget_gibberish": "fluency"}
DATA = re.compile(r"data\.(forget|retain|train)(?:\.(\w+)\.(.+))?|data/datasets@data\.(forget|retain|train)")


@dataclass
class _Translation:
    """The words of one command while they are translated."""

    mode: str
    values: Mapping[str, str]
    out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def benchmark(self) -> str:
        """The benchmark that the experiment names, such as tofu; empty if it names none."""
        parts = self.values.get("experiment", "").split("/")
        return parts[1] if len(parts) == 3 and parts[1] in BENCHMARKS else ""

    def add(self, key: str, value: str, old: str = "") -> None:
        """Add a word, with a note if it has another name than the user's."""
        word = f"{key}={value}"
        if old and old.partition("=")[0] != key:
            self.notes.append(f"{old} is now {word if '=' in old else key}")
        if word not in self.out:
            self.out.append(word)


def translate(
    words: Sequence[str], mode: str = "unlearn", *, context: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Return the words in this project's names, and a note for each renamed word or word without effect.

    context: further words of the same command, which are not translated. Raises ConfigError for a word that cannot act
    here, with the word to type instead.
    """
    values = {w.partition("=")[0].lstrip("+"): w.partition("=")[2] for w in (*context, *words)}
    job = _Translation(mode, values)
    for word in words:
        key, equals, value = word.partition("=")
        name = key.lstrip("+")
        if name.startswith("~data."):
            if not name.endswith("hf_args.name") or not _alternates(job):
                raise ConfigError(f"{word}: nothing to remove; forget_split and retain_split name the examples")
        elif rule := RULES.get(key, RULES.get(name)):
            rule(job, name, value)
        elif match := DATA.fullmatch(name):
            _data_word(job, match, name, value)
        elif name in RENAMED:
            job.notes.append(f"{name} is now {RENAMED[name]}")
            job.out.append(f"{RENAMED[name]}{equals}{value}")
        elif name in WITHOUT_EFFECT or name.startswith("collator."):
            job.notes.append(f"{name} has no effect: {WITHOUT_EFFECT.get(name, WITHOUT_EFFECT['collator'])}")
        elif name in REFUSED:
            if value.lower() not in FALSE:
                raise ConfigError(f"{word}: {REFUSED[name]}")
        elif group := next((group for group in REFUSED_GROUPS if name.startswith(group)), None):
            raise ConfigError(f"{word}: {REFUSED_GROUPS[group]}")
        elif not _of_forks(job, name, value):
            job.out.append(word.lstrip("+") if key.startswith("+trainer.args") else word)
    return job.out, job.notes


# The beginnings of the words that `fork_words` knows.
FORKS = re.compile(
    r"model\.(model_args\.)?(use_lora|lora|peft|base_model_name|quantization_|model_handler)"
    r"|eval\.(?!lm_eval|generation|sampling|judge)\w+\.(\w+_split|retain_logs_path|question_key|batch_size|overwrite|handler)$|hydra[./]|(adapter|lora|peft|quantization|(trainer\.)?do_save)$"
)


def _of_forks(job: _Translation, name: str, value: str) -> bool:
    """Translate a word of forks, and return whether it is one. Raises ConfigError."""
    if FORKS.match(name) is None:
        return False
    from expunge.interop.open_unlearning.fork_words import fork_word

    result = fork_word(job.mode, name, value, job.values)
    if result is not None:
        job.out += [word for word in result[0] if word not in job.out]
        job.notes += result[1]
    return result is not None


def _truth(job: _Translation, name: str, value: str) -> bool:
    if value.lower() in TRUE or value.lower() in FALSE:
        return value.lower() in TRUE
    raise ConfigError(f"{name}={value}: must be true or false")


def _do_train(job: _Translation, name: str, value: str) -> None:
    if not _truth(job, name, value):
        raise ConfigError(f"{name}={value}: nothing would be trained; to measure a model, write expunge eval")


def _push(job: _Translation, name: str, value: str) -> None:
    if _truth(job, name, value):
        raise ConfigError(f"{name}={value}: jobs upload nothing; {_PUSH}")


def _best(job: _Translation, name: str, value: str) -> None:
    if _truth(job, name, value):
        job.add("trainer.args.evaluate.keep", "best", f"{name}={value}")


def _greater(job: _Translation, name: str, value: str) -> None:
    job.add("trainer.args.evaluate.rule.target", "high" if _truth(job, name, value) else "low", f"{name}={value}")


def _report_to(job: _Translation, name: str, value: str) -> None:
    job.out.append(f"{name}=[]" if value in ("none", "null", "") else f"{name}={value}")


def _seed(job: _Translation, name: str, value: str) -> None:
    if job.mode == "eval":
        raise ConfigError(f"seed={value}: an evaluation draws nothing at random; for eval.extras=[leak], write "
                          f"eval.sampling.seed={value}")  # fmt: skip
    job.add("trainer.args.seed", value, f"seed={value}")


def _data_seed(job: _Translation, name: str, value: str) -> None:
    """Accept a seed of the order that equals the seed of the run. Raises ConfigError for another one."""
    if value == job.values.get("trainer.args.seed", job.values.get("seed")):
        job.notes.append(f"{name} has no effect: trainer.args.seed={value} decides the order, too")
    elif value.lower() not in ("null", "none"):
        raise ConfigError(f"{name}={value}: one seed decides the order, too; write trainer.args.seed=N")


def _eval_strategy(job: _Translation, name: str, value: str) -> None:
    old = f"{name}={value}"
    if value == "no":
        job.add("trainer.args.evaluate.every", "null", old)
        job.add("trainer.args.evaluate.steps", "null")
    elif value == "epoch":
        job.add("trainer.args.evaluate.steps", "null")
        job.add("trainer.args.evaluate.every", "1.0", old)
    elif value == "steps":
        steps = job.values.get("trainer.args.eval_steps") or job.values.get("trainer.args.logging_steps", "5")
        if job.benchmark == "wmdp" and "trainer.args.eval_steps" not in job.values:
            return  # the experiment has its steps
        job.add("trainer.args.evaluate.every", "null")
        job.add("trainer.args.evaluate.steps", steps, old)
    else:
        raise ConfigError(f"{old}: must be no, steps or epoch")


def _eval_steps(job: _Translation, name: str, value: str) -> None:
    strategy = next((job.values[key] for key in STRATEGIES if key in job.values), None)
    if strategy == "steps" or (strategy is None and job.benchmark == "wmdp"):
        job.add("trainer.args.evaluate.every", "null")
        job.add("trainer.args.evaluate.steps", value, f"{name}={value}")
    else:
        job.notes.append(f"{name} has no effect: evaluation is by epochs; add trainer.args.eval_strategy=steps")


def _save_strategy(job: _Translation, name: str, value: str) -> None:
    if value == "best":
        job.add("trainer.args.evaluate.keep", "best", f"{name}={value}")
    elif value != "no":
        job.add(name, value)
        if value == "steps" and "trainer.args.save_steps" not in job.values:
            job.add("trainer.args.save_steps", "500")  # transformers' default


def _save_steps(job: _Translation, name: str, value: str) -> None:
    if job.values.get("trainer.args.save_strategy") == "steps":
        job.add(name, value)
    else:
        job.notes.append(f"{name} has no effect: add trainer.args.save_strategy=steps")


def _metrics(job: _Translation, name: str, value: str) -> None:
    """Choose metrics; metrics of a group are further metrics here."""
    if names := _without_groups(job, value, f"{name}={value}"):
        job.add("eval.metrics", f"[{','.join(names)}]", f"{name}={value}")


def _more_metrics(job: _Translation, name: str, value: str) -> None:
    """Add metrics to the default ones, which have all but the groups."""
    names = _without_groups(job, value, f"+{name}={value}")
    job.notes.append(f"+{name}={value}: the default metrics have {', '.join(names) or 'the others'} already")


def _without_groups(job: _Translation, value: str, old: str) -> list[str]:
    """Add the groups in a list of metrics to the words, and return the other metrics by their names in results."""
    names = [METRICS.get(n.strip(), n.strip()) for n in value.strip("[]").split(",") if n.strip()]
    if groups := [METRIC_GROUPS[n] for n in names if n in METRIC_GROUPS]:
        job.add("eval.extras", f"[{','.join(groups)}]", old)
    return [n for n in names if n not in METRIC_GROUPS]


def _eval_group(job: _Translation, name: str, value: str) -> None:
    """Accept `eval=GROUP` if it names the benchmark of the experiment. Raises ConfigError."""
    if value == "lm_eval" and job.mode == "eval":
        job.add("benchmark", "lm_eval", f"{name}={value}")
    elif value == "lm_eval" and job.benchmark != "wmdp":
        raise ConfigError(f"{name}={value}: to run tasks of lm-evaluation-harness, write eval.lm_eval.tasks=[mmlu]")
    elif value not in (job.benchmark, "lm_eval"):
        raise ConfigError(f"{name}={value}: measured by experiment={job.mode}/{value}/default")


def _data_group(job: _Translation, name: str, value: str) -> None:
    group = {"unlearn": "unlearn", "train": "finetune"}.get(job.mode, "")
    if value != group:
        command = {"unlearn": "unlearn", "finetune": "train"}.get(value, job.mode)
        raise ConfigError(f"data={value}: write expunge {command} experiment=...")


STRATEGIES = ("trainer.args.eval_strategy", "trainer.args.evaluation_strategy")
RULES: Mapping[str, Callable[[_Translation, str, str], None]] = {
    **dict.fromkeys(STRATEGIES, _eval_strategy),
    "trainer.args.eval_steps": _eval_steps,
    "trainer.args.do_train": _do_train,
    "trainer.args.data_seed": _data_seed,
    "trainer.args.push_to_hub": _push,
    "trainer.args.load_best_model_at_end": _best,
    "trainer.args.greater_is_better": _greater,
    "trainer.args.report_to": _report_to,
    "trainer.args.save_strategy": _save_strategy,
    "trainer.args.save_steps": _save_steps,
    "eval/tofu_metrics": _metrics,
    "eval/muse_metrics": _metrics,
    "+eval/tofu_metrics": _more_metrics,
    "+eval/muse_metrics": _more_metrics,
    "eval": _eval_group,
    "data": _data_group,
    "seed": _seed,
    "mode": lambda job, name, value: None,  # the command decides it
}


def _alternates(job: _Translation) -> str | None:
    """Return the file of other answers to the forget questions, if the command names one."""
    files = [value for key, value in job.values.items() if key.endswith("hf_args.data_files") and ".forget." in key]
    return files[0] if files else None


def _data_word(job: _Translation, match: re.Match[str], name: str, value: str) -> None:
    """Translate a word that names a data set, or a key of one. Raises ConfigError."""
    side, dataset, key, set_name = match.groups()
    if dataset is None:
        _chosen_dataset(job, set_name or side, name, value)
        return
    known = DATASETS.get(dataset)
    if known is None and side != "train" and Path(value).expanduser().is_file():
        raise ConfigError(f"{name}={value}: for a file of your own, write benchmark=custom {side}={value}")
    if known is None:
        raise ConfigError(f"{name}={value}: no data set named {dataset!r}{nearest(dataset, DATASETS)}")
    alternates = _alternates(job) if side == "forget" else None
    if key == "handler":
        if value == "QAwithAlternateDataset" and alternates:
            _with_alternates(job, name, value, alternates)
        elif value not in known.handlers:
            raise ConfigError(f"{name}={value}: {dataset} is read as {known.handlers[0]}; for own data, write "
                              "benchmark=custom forget=FILE retain=FILE")  # fmt: skip
    elif alternates and key.removeprefix("args.") in ALTERNATES_KEYS:
        return  # parts of the file of other answers
    elif key in ("args.hf_args.name", "args.hf_args.split") and key == known.split_key:
        _split(job, side, name, value)
    elif key in known.fixed and value.lower() == known.fixed[key].lower():
        return
    elif key == "args.hf_args.path":
        job.add("data.root", value, name)
    elif known.benchmark == "wmdp" and (corpus := re.fullmatch(rf"(bio|cyber)-{side}-corpus", value)):
        job.add("data_split", corpus[1], f"{name}={value}")
    elif key == "args.hf_args.data_files" and known.benchmark == "wmdp":
        if "${data_split}" not in value:
            job.add(f"{side}_split", value, name)
    elif key == "args.max_length":
        job.add("model.template_args.max_length" if known.benchmark == "tofu" else "data.args.max_length", value, name)
    else:
        raise ConfigError(f"{name}={value}: not a setting here; for own data, write benchmark=custom forget=FILE")


ALTERNATES_KEYS = (
    "hf_args.path", "hf_args.split", "hf_args.name", "hf_args.data_files", "alternate_key", "return_original",
)  # fmt: skip


def _with_alternates(job: _Translation, name: str, value: str, file: str) -> None:
    """Read other answers from the file; without the file, `trainer=AltPO` samples them in the same command."""
    if Path(file).is_file():
        job.add("data.alternates", file, f"{name}={value}")
        if key := next((v for k, v in job.values.items() if k.endswith(".alternate_key")), None):
            job.add("data.alternate_key", key)
    elif job.values.get("trainer") in ("DPO", "AltPO"):
        if "trainer=DPO" in job.out:
            job.out.remove("trainer=DPO")
        job.values = {**job.values, "trainer": "AltPO"}
        job.add("trainer", "AltPO")
        job.notes.append(f"no file {file}: trainer=AltPO samples the other answers itself, in this command")
    else:
        raise ConfigError(f"{name}: no file {file}; write trainer=AltPO, which samples other answers itself")


def _chosen_dataset(job: _Translation, side: str, name: str, value: str) -> None:
    known = DATASETS.get(value)
    if known is None and Path(value).expanduser().is_file():
        raise ConfigError(f"{name}={value}: for a file of your own, write benchmark=custom {side}={value}")
    if known is None:
        raise ConfigError(f"{name}={value}: no data set named {value!r}{nearest(value, DATASETS)}")
    if job.benchmark and known.benchmark != job.benchmark:
        command = {"unlearn": "unlearn", "train": "finetune", "eval": "eval"}[job.mode]
        raise ConfigError(f"{name}={value}: a data set of {known.benchmark}; write "
                          f"experiment={command}/{known.benchmark}/default")  # fmt: skip
    if side == "train":
        if not known.train_split:
            raise ConfigError(f"{name}={value}: no model is trained on it; write train_split=full, retain or forget")
        if not any(key.startswith(f"data.train.{value}.args.hf_args.") for key in job.values):
            job.add("train_split", known.train_split, f"{name}={value}")
    elif known.side != side:
        raise ConfigError(f"{name}={value}: no {side} set; write {side}_split=NAME")
    elif known.word:
        if known.word.startswith("trainer=") and job.values.get("trainer", "DPO") not in known.trainers:
            raise ConfigError(f"{name}={value}: only {' and '.join(known.trainers)} read refusals; add {known.word}")
        if not known.word.startswith("trainer="):
            new, _, text = known.word.partition("=")
            job.add(new, text, f"{name}={value}")


def _split(job: _Translation, side: str, name: str, value: str) -> None:
    if side != "train":
        job.add(f"{side}_split", value, name)
        return
    job.add("train_split", value, name)
    from expunge.data.loaders.tofu import SPLIT_SHARES

    share = SPLIT_SHARES.get(value)
    if share and "forget_split" not in job.values:
        job.add("forget_split", f"forget{share}")
        job.notes.append(f"{value} belongs to forget_split=forget{share}")


SPLIT_OF = {"full": "full", "retain": "retain", "retrain": "retain"}


def with_split(words: Sequence[str], notes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Add the split of `train trainer=retrain` (ARC-SF's names of fine-tuning), unless `train_split` is set."""
    values = {word.partition("=")[0].lstrip("+"): word.partition("=")[2] for word in words}
    split = SPLIT_OF.get(values.get("trainer", ""))
    if split is None or "train_split" in values:
        return list(words), list(notes)
    return [*words, f"train_split={split}"], [*notes, f"trainer={values['trainer']} trains on train_split={split}"]
