"""OpenUnlearning's words of a command line as words of Expunge.

A word is translated, or named in a note if it changes no result, or refused with the word to type instead.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence

from expunge.core.errors import ConfigError
from expunge.interop.open_unlearning import training_arguments
from expunge.interop.open_unlearning.data_words import DATA, alternates_of, data_word
from expunge.interop.open_unlearning.datasets import BENCHMARKS
from expunge.interop.open_unlearning.translation import Translation
from expunge.models.options import KINDS, Kind

RENAMED: Mapping[str, str] = {
    **training_arguments.prefixed(training_arguments.RENAMED, values=True),
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
BATCH_OF_METRIC = re.compile(r"eval\.(tofu|muse)\.metrics\.[\w.]+\.(batch_size|collators\.[\w.]+)")
GENERATION = re.compile(r"(eval\.(?:tofu|muse)\.(?:[\w.]+\.)?generation_args)\.(\w+)")
# Words of an evaluation whose settings here the training reads, too.
TRAINED = dict.fromkeys(("eval.tofu.forget_split", "eval.muse.data_split"), ", which the training reads, too")
_DOWN = r'["model\.layers\.(5|6|7)\.mlp\.down_proj\.weight"]'
# The defaults of its classes, if they differ from its files of methods. They count if `~trainer.method_args.KEY`
# removes the setting, or `trainer.handler=NAME` selects a class without its file.
CLASS_DEFAULTS: Mapping[str, Mapping[str, str]] = {
    **{method: {"beta": "1.0"} for method in ("NPO", "DPO", "IdkDPO", "AltPO")},
    "SimNPO": {"beta": "1.0", "gamma": "1.0"},
    "UNDIAL": {"beta": "1.0", "alpha": "1.0"},
    "SatImp": {"gamma": "1.0", "alpha": "0.1"},
    "RMU": {"steering_coeff": "20", "trainable_params_regex": _DOWN},
}


def _of_models(table: Callable[[Kind], Mapping[str, str]]) -> dict[str, str]:
    """Return a table of the arguments of from_pretrained, by their words."""
    return {f"model.{group}.{name}": why for group, kind in KINDS.items() for name, why in table(kind).items()}


_IDENTITY = "a result is identified by its settings"
# Words that change no result here, with the reason.
WITHOUT_EFFECT: Mapping[str, str] = {
    **training_arguments.prefixed(training_arguments.WITHOUT_EFFECT),
    "trainer.method_args.loss_names": "PDU has these two losses",
    "eval.tofu.batch_size": training_arguments.BUDGET,
    "eval.tofu.overwrite": _IDENTITY,
    "eval.tofu.output_dir": "paths.output_dir sets the place of the result",
    "eval.muse.batch_size": training_arguments.BUDGET,
    **dict.fromkeys(("eval.tofu.handler", "eval.muse.handler"), "the benchmark decides the suite of metrics"),
    "eval.muse.overwrite": _IDENTITY,
    "eval.muse.output_dir": "paths.output_dir sets the place of the result",
    "eval.lm_eval.overwrite": _IDENTITY,
    **_of_models(lambda kind: kind.without_effect),
    "collator": "padding is never read",
    "hydra.run.dir": "paths.output_dir sets the place of the result",
    **dict.fromkeys(("hydra/job_logging", "hydra/hydra_logging", "hydra.verbose"), "the log is next to the model"),
    "hydra.output_subdir": "config.yaml is next to the model",
    "paths": "paths.output_dir and paths.parent set the place of the result",
    "paths.datasets": "no file of a data set is read",
    "paths.work_dir": "the current folder is the start of every path",
}

_REFERENCE = "the reference attack reads the losses that a model's evaluation has: retain_logs_path=ITS_TOFU_EVAL.json"
# Words that cannot act here, with the words to type instead.
REFUSED: Mapping[str, str] = {
    **training_arguments.prefixed(training_arguments.REFUSED),
    "eval.tofu.metrics.mia_reference.reference_model_path": _REFERENCE,
    "eval.muse.metrics.mia_reference.reference_model_path": _REFERENCE.replace("TOFU", "MUSE"),
    "paths.data_dir": "write data.root=FOLDER, from which all data sets are read",
    **_of_models(lambda kind: kind.refused),
}
SUITES = ("eval.tofu.metrics", "eval.muse.metrics")
REFUSED_GROUPS: Mapping[str, str] = {
    **dict.fromkeys(
        SUITES,
        "a metric has no settings of its own here; choose metrics by eval.metrics=[NAME,...], and change generations "
        "by eval.generation.*",
    ),
    "generation": "write eval.generation.max_new_tokens=N; expunge help eval.generation shows the other settings",
    "hydra.job": "only hydra.run.dir is read; paths.output_dir and task_name replace the others",
    "hydra.sweep": "only hydra.run.dir is read; `--multirun` and paths.output_dir replace the others",
}
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0", "null", "none", "")
METRICS = {"forget_Truth_Ratio": "forget_truth_ratio"}  # names of files -> names in results
METRIC_GROUPS = {"mia_gradnorm": "gradnorm", "forget_Q_A_gibberish": "fluency", "forget_gibberish": "fluency"}
QUOTED = re.compile(r"(['\"])((?:(?!\1).)*)\1", re.DOTALL)


def translate(
    words: Sequence[str], mode: str = "unlearn", *, context: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Return the words in this project's names, and a note for each renamed word or word without effect.

    context: further words of the same command, which are not translated. Raises ConfigError for a word that cannot act
    here, with the word to type instead.
    """
    notes: list[str] = []
    words, context = (
        training_arguments.as_read_there(words, notes, context),
        training_arguments.as_read_there(context, [], words),
    )
    values = {w.partition("=")[0].lstrip("+"): w.partition("=")[2] for w in (*context, *words)}
    job = Translation(mode, values, notes=notes)
    for word in words:
        key, _, value = word.partition("=")
        name = key.lstrip("+")
        if job.theirs and (quoted := QUOTED.fullmatch(value)):
            value = quoted[2]
            word = f"{key}={value}"
            job.notes.append(f"{name}: the quotes are not part of the value, as in OpenUnlearning: {value}")
        if name.startswith("~"):
            _removal(job, word, name[1:].partition("@")[0])
        elif rule := RULES.get(key, RULES.get(name)):
            rule(job, name, value)
        elif match := DATA.fullmatch(name):
            data_word(job, match, name, value)
        elif match := GENERATION.fullmatch(name):
            from expunge.interop.open_unlearning.generation_words import generation_word

            generation_word(job, match, name, value)
        elif name in RENAMED:
            trains = job.mode == "unlearn" or (job.mode == "train" and name == "eval.muse.data_split")
            alone = trains and RENAMED[name] not in job.values
            job.rename(name, RENAMED[name], value, TRAINED.get(name, "") if alone else "")
        elif reason := without_effect(name):
            job.notes.append(f"{name} has no effect: {reason}")
        elif reason := REFUSED.get(_outer(name)):
            if value.lower() not in (*FALSE, "0.0", "{}", "[]"):
                raise ConfigError(f"{word}: {reason}")
        elif group := next((g for g in REFUSED_GROUPS if name == g or name.startswith(f"{g}.")), None):
            raise ConfigError(f"{word}: {REFUSED_GROUPS[group]}")
        elif not _of_forks(job, name, value):
            job.out.append(word.lstrip("+") if key.startswith("+trainer.args") else word)
    return job.out, job.notes


def without_effect(name: str) -> str | None:
    """Return why a setting changes no result here; None for any other one."""
    batch = BATCH_OF_METRIC.fullmatch(name)
    return WITHOUT_EFFECT.get(_outer(name)) or (training_arguments.BUDGET if batch else None)


def _outer(name: str) -> str:
    """Return the setting that a key belongs to, such as trainer.args.lr_scheduler_kwargs of ...kwargs.num_cycles."""
    parts = name.split(".")
    if parts[0] == "collator":
        return "collator"
    return ".".join(parts[:3]) if parts[:2] == ["trainer", "args"] else name


def _removal(job: Translation, word: str, name: str) -> None:
    """Translate the word that removes a setting (`~KEY`). Raises ConfigError if nothing can be removed here."""
    if job.theirs and (default := _default_of(job, name)):
        key, value = default
        job.add(key, value)
        job.notes.append(f"{word} is now {key}={value}, the default of {_OWNERS[name.split('.')[1]]}")
    elif name == "eval":
        _eval_group(job, word, "null")
    elif name in STRATEGIES:
        _eval_strategy(job, word, "no")
    elif name in RENAMED:
        job.notes.append(f"{name} is now {RENAMED[name]}")
        job.out.append(f"~{RENAMED[name]}")
    elif name.startswith(("data.", "data/")):
        if not name.endswith("hf_args.name") or not alternates_of(job):
            raise ConfigError(f"{word}: nothing to remove; forget_split and retain_split name the examples")
    elif name.startswith(("eval/", *SUITES)):
        raise ConfigError(f"{word}: nothing to remove; choose metrics by eval.metrics=[NAME,...]")
    elif name in RULES or _outer(name) in {**WITHOUT_EFFECT, **REFUSED}:
        job.notes.append(f"{word} has no effect: the setting is not set here")
    else:
        job.out.append(word)


_OWNERS = {"args": "transformers", "method_args": "the class in OpenUnlearning"}


def _default_of(job: Translation, name: str) -> tuple[str, str] | None:
    """Return the word for a removed setting of training: there, the default of its class then counts."""
    group, _, key = name.removeprefix("trainer.").partition(".")
    if group == "args" and key in training_arguments.DEFAULTS:
        return RENAMED.get(name, name), training_arguments.DEFAULTS[key]
    method = job.values.get("trainer.handler", job.values.get("trainer", ""))
    own = CLASS_DEFAULTS.get(method, {})
    return (name, own[key]) if group == "method_args" and key in own else None


def _handler(job: Translation, name: str, value: str) -> None:
    """Select a method by its class; there, the class then has its own defaults, and here those of `trainer=`."""
    job.out.append(f"{name}={value}")
    unset = {k: v for k, v in CLASS_DEFAULTS.get(value, {}).items() if f"trainer.method_args.{k}" not in job.values}
    other = job.values.get("trainer", value)
    if job.theirs and other != value:
        job.notes.append(
            f"{name}={value} has the settings of trainer={value}; OpenUnlearning passes those of trainer={other} to "
            "the class"
        )
    elif job.theirs and unset and "trainer" not in job.values:
        listed = " ".join(f"trainer.method_args.{k}={v}" for k, v in unset.items())
        job.notes.append(
            f"{name}={value} has the settings of trainer={value}; the class in OpenUnlearning has {listed}"
        )


# The beginnings of the words that `fork_words` knows.
FORKS = re.compile(
    r"model\.(model_args\.)?(use_lora|lora|peft|base_model_name|quantization_|model_handler)"
    r"|eval\.(?!lm_eval|generation|sampling|judge)\w+\.(\w+_split|retain_logs_path|question_key|batch_size|overwrite|handler)$|hydra[./]|(adapter|lora|peft|quantization|(trainer\.)?do_save)$"
)


def _of_forks(job: Translation, name: str, value: str) -> bool:
    """Translate a word of forks, and return whether it is one. Raises ConfigError."""
    if FORKS.match(name) is None:
        return False
    from expunge.interop.open_unlearning.fork_words import fork_word

    result = fork_word(job.mode, name, value, job.values)
    if result is not None:
        job.out += [word for word in result[0] if word not in job.out]
        job.notes += result[1]
    return result is not None


def _truth(job: Translation, name: str, value: str) -> bool:
    if value.lower() in TRUE or value.lower() in FALSE:
        return value.lower() in TRUE
    raise ConfigError(f"{name}={value}: must be true or false")


def _do_train(job: Translation, name: str, value: str) -> None:
    if not _truth(job, name, value):
        raise ConfigError(f"{name}={value}: nothing would be trained; to measure a model, write expunge eval")


def _push(job: Translation, name: str, value: str) -> None:
    if _truth(job, name, value):
        raise ConfigError(f"{name}={value}: jobs upload nothing; {training_arguments.PUSH}")


def _best(job: Translation, name: str, value: str) -> None:
    if _truth(job, name, value):
        job.add("trainer.args.evaluate.keep", "best", f"{name}={value}")


def _metric_for_best(job: Translation, name: str, value: str) -> None:
    """Choose the best model by one metric alone, as transformers does: the largest value, or the smallest."""
    metric = value.removeprefix("eval_")
    greater = job.values.get("trainer.args.greater_is_better", str(not metric.endswith("loss")))
    sign = "" if _truth(job, "trainer.args.greater_is_better", greater) else "-"
    job.add("trainer.args.evaluate.rule.formula", sign + (metric if metric.isidentifier() else f'"{metric}"'),
            f"{name}={value}")  # fmt: skip


def _greater(job: Translation, name: str, value: str) -> None:
    if "trainer.args.metric_for_best_model" in job.values:
        return  # a part of the formula
    job.add("trainer.args.evaluate.rule.target", "high" if _truth(job, name, value) else "low", f"{name}={value}")


def _report_to(job: Translation, name: str, value: str) -> None:
    job.out.append(f"{name}=[]" if value in ("none", "null", "") else f"{name}={value}")


def _seed(job: Translation, name: str, value: str) -> None:
    if job.mode == "eval" and any(key.endswith("do_sample") for key in job.values):
        job.rename(name, "eval.generation.seed", value)
    elif job.mode == "eval":
        job.notes.append("seed has no effect: an evaluation draws nothing at random; for eval.extras=[leak], write "
                         f"eval.sampling.seed={value}")  # fmt: skip
    else:
        job.add("trainer.args.seed", value, f"seed={value}")


def _data_split(job: Translation, name: str, value: str) -> None:
    """Select the data; the evaluations of its fine-tuning on MUSE read News until another word names other data."""
    job.out.append(f"{name}={value}")
    if job.mode == "train" and job.theirs and value != "News" and "eval.muse.data_split" not in job.values:
        job.notes.append(
            f"{name}={value}: evaluations during training read {value}, too; OpenUnlearning's read News until the "
            f"command has eval.muse.data_split={value}"
        )


def _data_seed(job: Translation, name: str, value: str) -> None:
    """Accept a seed of the order that equals the seed of the run. Raises ConfigError for another one."""
    if value == job.values.get("trainer.args.seed", job.values.get("seed")):
        job.notes.append(f"{name} has no effect: trainer.args.seed={value} decides the order, too")
    elif value.lower() not in ("null", "none"):
        raise ConfigError(f"{name}={value}: one seed decides the order, too; write trainer.args.seed=N")


def _eval_strategy(job: Translation, name: str, value: str) -> None:
    old = name if name.startswith("~") else f"{name}={value}"
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


def _eval_steps(job: Translation, name: str, value: str) -> None:
    strategy = next((job.values[key] for key in STRATEGIES if key in job.values), None)
    if strategy == "steps" or (strategy is None and job.benchmark == "wmdp"):
        job.add("trainer.args.evaluate.every", "null")
        job.add("trainer.args.evaluate.steps", value, f"{name}={value}")
    else:
        job.notes.append(f"{name} has no effect: evaluation is by epochs; add trainer.args.eval_strategy=steps")


def _save_strategy(job: Translation, name: str, value: str) -> None:
    if value == "best":
        job.add("trainer.args.evaluate.keep", "best", f"{name}={value}")
    elif value != "no":
        job.add(name, value)
        if value == "steps" and "trainer.args.save_steps" not in job.values:
            job.add("trainer.args.save_steps", "500")  # transformers' default


def _save_steps(job: Translation, name: str, value: str) -> None:
    if job.values.get("trainer.args.save_strategy") == "steps":
        job.add(name, value)
    else:
        job.notes.append(f"{name} has no effect: add trainer.args.save_strategy=steps")


def _metrics(job: Translation, name: str, value: str) -> None:
    """Choose metrics; metrics of a group are further metrics here."""
    if names := _without_groups(job, value, f"{name}={value}"):
        job.add("eval.metrics", f"[{','.join(names)}]", f"{name}={value}")


def _more_metrics(job: Translation, name: str, value: str) -> None:
    """Add metrics to the default ones, which have all but the groups."""
    names = _without_groups(job, value, f"+{name}={value}")
    job.notes.append(f"+{name}={value}: the default metrics have {', '.join(names) or 'the others'} already")


def _without_groups(job: Translation, value: str, old: str) -> list[str]:
    """Add the groups in a list of metrics to the words, and return the other metrics by their names in results."""
    names = [METRICS.get(n.strip(), n.strip()) for n in value.strip("[]").split(",") if n.strip()]
    if groups := [METRIC_GROUPS[n] for n in names if n in METRIC_GROUPS]:
        job.add("eval.extras", f"[{','.join(groups)}]", old)
    return [n for n in names if n not in METRIC_GROUPS]


def _eval_group(job: Translation, name: str, value: str) -> None:
    """Accept `eval=GROUP` if it names the benchmark of the experiment. Raises ConfigError."""
    value = value.removesuffix(".yaml")
    if value == "lm_eval" and job.mode == "eval":
        job.add("benchmark", "lm_eval", f"{name}={value}")
    elif value == "lm_eval" and job.benchmark != "wmdp":
        raise ConfigError(f"{name}={value}: to run tasks of lm-evaluation-harness, write eval.lm_eval.tasks=[mmlu]")
    elif value.lower() in ("null", "none"):
        if job.mode == "eval":
            raise ConfigError(f"{name}={value}: nothing would be measured; leave it out")
        job.add("trainer.args.evaluate.every", "null", name if name.startswith("~") else f"{name}={value}")
        job.add("trainer.args.evaluate.steps", "null")
        if job.mode == "unlearn":
            job.notes.append("the model is still measured once, at the end of `expunge unlearn`")
    elif value not in (*BENCHMARKS, "lm_eval"):
        raise ConfigError(f"{name}={value}: a benchmark has one suite; write eval.metrics=[NAME,...], and for tasks of "
                          "lm-evaluation-harness eval.lm_eval.tasks=[mmlu]")  # fmt: skip
    elif value not in (job.benchmark, "lm_eval"):
        raise ConfigError(f"{name}={value}: measured by experiment={job.mode}/{value}/default")


def _data_group(job: Translation, name: str, value: str) -> None:
    group = {"unlearn": "unlearn", "train": "finetune"}.get(job.mode, "")
    if value != group:
        command = {"unlearn": "unlearn", "finetune": "train"}.get(value, job.mode)
        raise ConfigError(f"data={value}: write expunge {command} experiment=...")


COMMANDS = {"unlearn": "unlearn", "train": "train", "finetune": "train", "eval": "eval"}


def _mode(job: Translation, name: str, value: str) -> None:
    """Accept the mode of the command itself. Raises ConfigError for another one."""
    if COMMANDS.get(value) != job.mode:
        other = COMMANDS.get(value)
        raise ConfigError(f"mode={value}: " + (f"write expunge {other}" if other else "leave it out"))


def _root_dir(job: Translation, name: str, value: str) -> None:
    """Write results below another folder, as there: ROOT/saves/MODE/NAME."""
    folder = value.rstrip("/") or "/"
    if folder == ".":
        return
    mode = "finetune" if job.values.get("experiment", "").startswith("finetune/") else job.mode
    job.add("paths.parent", f"{folder}/saves/{mode}".replace("//", "/"), f"{name}={value}")


def _schedule(job: Translation, name: str, value: str) -> None:
    """Select a schedule. Raises ConfigError for one that needs settings of its own."""
    if reason := training_arguments.SCHEDULES.get(value):
        raise ConfigError(f"{name}={value}: {reason}")
    job.out.append(f"{name}={value}")


OPTIMIZER_ARGS = re.compile(r"\s*\w+\s*=[^={},]+(,\s*\w+\s*=[^={},]+)*\s*")


def _optim_args(job: Translation, name: str, value: str) -> None:
    """Read transformers' text `momentum=0.9,nesterov=true` as settings."""
    if OPTIMIZER_ARGS.fullmatch(value):
        settings = ",".join(":".join(part.strip() for part in each.split("=")) for each in value.split(","))
        job.add(name, f"{{{settings}}}")
        job.notes.append(f"{name}={value} is now {name}={{{settings}}}")
    else:
        job.out.append(f"{name}={value}")


def _retain_logs(job: Translation, name: str, value: str) -> None:
    job.rename(name, "retain_logs_path", value)


STRATEGIES = ("trainer.args.eval_strategy", "trainer.args.evaluation_strategy")
RULES: Mapping[str, Callable[[Translation, str, str], None]] = {
    **dict.fromkeys(STRATEGIES, _eval_strategy),
    "trainer.args.eval_steps": _eval_steps,
    "trainer.args.do_train": _do_train,
    "trainer.args.data_seed": _data_seed,
    "data_seed": _data_seed,
    "trainer.args.push_to_hub": _push,
    "trainer.args.load_best_model_at_end": _best,
    "trainer.args.metric_for_best_model": _metric_for_best,
    "trainer.args.greater_is_better": _greater,
    "trainer.handler": _handler,
    "trainer.args.report_to": _report_to,
    "trainer.args.save_strategy": _save_strategy,
    "trainer.args.save_steps": _save_steps,
    "trainer.args.optim_args": _optim_args,
    "trainer.args.lr_scheduler_type": _schedule,
    "paths.root_dir": _root_dir,
    "eval/tofu_metrics": _metrics,
    "eval/muse_metrics": _metrics,
    "+eval/tofu_metrics": _more_metrics,
    "+eval/muse_metrics": _more_metrics,
    "eval": _eval_group,
    "data": _data_group,
    "seed": _seed,
    "data_split": _data_split,
    "mode": _mode,
    **{
        f"{suite}.{metric}.reference_logs.retain_model_logs.path": _retain_logs
        for suite, metric in itertools.product(SUITES, ("forget_quality", "privleak", "mia_reference"))
    },
}


SPLIT_OF = {"full": "full", "retain": "retain", "retrain": "retain"}


def with_split(words: Sequence[str], notes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Add the split of `train trainer=retrain` (ARC-SF's names of fine-tuning), unless `train_split` is set."""
    values = {word.partition("=")[0].lstrip("+"): word.partition("=")[2] for word in words}
    split = SPLIT_OF.get(values.get("trainer", ""))
    if split is None or "train_split" in values:
        return list(words), list(notes)
    return [*words, f"train_split={split}"], [*notes, f"trainer={values['trainer']} trains on train_split={split}"]
