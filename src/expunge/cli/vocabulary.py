"""Accept OpenUnlearning's override vocabulary: translate renamed keys, and note and drop keys without effect."""

from __future__ import annotations

from collections.abc import Sequence

SEMEVAL_EXPERIMENT = "experiment=semeval/iterative"  # the default of `expunge semeval`

RENAMED = {
    "trainer.args.gradient_checkpointing": "trainer.args.activation_checkpointing",
    "trainer.args.warmup_ratio": "trainer.args.warmup_steps",
    "eval.tofu.retain_logs_path": "retain_logs_path",
    "eval.muse.retain_logs_path": "retain_logs_path",
    "eval.muse.data_split": "data_split",
    "data_sub_set": "train_split",
    "eval.lm_eval.simple_evaluate_args.batch_size": "eval.lm_eval.batch_size",
    "eval.lm_eval.simple_evaluate_args.apply_chat_template": "eval.lm_eval.apply_chat_template",
    "eval.lm_eval.simple_evaluate_args.system_instruction": "eval.lm_eval.system_instruction",
    "model.model_args.torch_dtype": "model.model_args.dtype",
    "data.anchor": "trainer.args.anchor",
    "trainer.args.eval_on_start": "trainer.args.evaluate.at_start",
    "data.train.TOFU_QA_full.args.hf_args.name": "train_split",
    "data.train.TOFU_QA_retain.args.hf_args.name": "train_split",
}

WITHOUT_EFFECT = {
    "trainer.args.per_device_eval_batch_size": "scoring fills its batches by a token budget",
    "trainer.args.save_strategy": "the final model is saved",
    "trainer.args.save_steps": "the final model is saved",
    "trainer.args.save_total_limit": "the final model is saved",
    "trainer.args.save_only_model": "the final model is saved",
    "trainer.args.save_safetensors": "models are always safetensors",
    "trainer.args.bf16_full_eval": "scoring follows model.model_args.dtype",
    "trainer.args.fp16_full_eval": "scoring follows model.model_args.dtype",
    "trainer.args.logging_dir": "the log is next to the model",
    "trainer.args.logging_strategy": "the log is next to the model",
    "trainer.args.output_dir": "paths.output_dir sets the place of the result",
    "trainer.args.do_train": "the command decides it",
    "trainer.args.do_eval": "the command decides it",
    "trainer.args.remove_unused_columns": "batches contain the columns that the method needs",
    "trainer.args.ddp_find_unused_parameters": "one process trains",
    "trainer.args.overwrite_output_dir": "nothing is overwritten",
    "trainer.args.no_cuda": "model.device sets the device",
    "trainer.args.use_cpu": "model.device sets the device",
    "eval.tofu.batch_size": "scoring fills its batches by a token budget",
    "eval.tofu.overwrite": "a result is identified by its settings",
    "eval.muse.batch_size": "scoring fills its batches by a token budget",
    "eval.muse.overwrite": "a result is identified by its settings",
    "eval.lm_eval.overwrite": "a result is identified by its settings",
    "eval": "the experiment names the benchmark",
    "data": "the experiment names the benchmark",
    "data.forget": "the experiment names the benchmark",
    "data.retain": "the experiment names the benchmark",
    "data/datasets@data.train": "train_split selects the rows",
    "collator": "padding is never read",
    "hydra.run.dir": "paths.output_dir sets the place of the result",
}


EVALUATION = ("trainer.args.eval_strategy", "trainer.args.evaluation_strategy", "trainer.args.eval_steps")


def _evaluation(words: Sequence[str]) -> dict[str, str]:
    """Return the setting for each word on evaluation during training: every epoch or every n steps; else nothing."""
    values = {w.partition("=")[0].lstrip("+"): w.partition("=")[2] for w in words}
    strategy = next((name for name in EVALUATION[:2] if name in values), "")
    if values.get(strategy) == "epoch":
        return {strategy: "trainer.args.evaluate.every=1.0"}
    if values.get(strategy) == "steps" and EVALUATION[2] in values:
        setting = f"trainer.args.evaluate.steps={values[EVALUATION[2]]}"
        return {strategy: setting, EVALUATION[2]: setting}
    return {}


def translate(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words in this project's names, and a note for each renamed word or word without effect."""
    out: list[str] = []
    notes: list[str] = []
    how = _evaluation(words)
    for word in words:
        key, equals, value = word.partition("=")
        name = key.lstrip("+")
        if name in EVALUATION:
            setting = how.get(name)
            notes.append(f"{name} is now {setting}" if setting else f"{word} has no effect: see trainer.args.evaluate")
            out += [setting] if setting and setting not in out else []
        elif name in RENAMED:
            notes.append(f"{name} is now {RENAMED[name]}")
            out.append(f"{RENAMED[name]}{equals}{value}")
        elif name == "trainer.args.report_to" and value in ("none", "null", ""):
            out.append(f"{name}=[]")
        elif name in WITHOUT_EFFECT:
            notes.append(f"{name} has no effect: {WITHOUT_EFFECT[name]}")
        else:
            out.append(word if not key.startswith("+trainer.args") else word.lstrip("+"))
    return out, notes


SPLIT_OF = {"full": "full", "retain": "retain", "retrain": "retain"}


def with_split(words: Sequence[str], notes: Sequence[str]) -> tuple[list[str], list[str]]:
    """Add the split of `train trainer=retrain` (ARC-SF's names of fine-tuning), unless `train_split` is set."""
    values = {word.partition("=")[0].lstrip("+"): word.partition("=")[2] for word in words}
    split = SPLIT_OF.get(values.get("trainer", ""))
    if split is None or "train_split" in values:
        return list(words), list(notes)
    return [*words, f"train_split={split}"], [*notes, f"trainer={values['trainer']} trains on train_split={split}"]
