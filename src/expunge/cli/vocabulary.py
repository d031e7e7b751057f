"""OpenUnlearning's override vocabulary, taken as it stands: renamed keys are translated, and what has no effect here
is said once and dropped."""

from __future__ import annotations

from collections.abc import Sequence

SEMEVAL_EXPERIMENT = "experiment=semeval/iterative"  # what `expunge semeval` runs unless told otherwise

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
    "trainer.args.logging_dir": "the log lies beside the model",
    "trainer.args.logging_strategy": "the log lies beside the model",
    "trainer.args.output_dir": "paths.output_dir says where the result goes",
    "trainer.args.do_train": "the command says what is done",
    "trainer.args.do_eval": "the command says what is done",
    "trainer.args.remove_unused_columns": "batches hold what the method needs",
    "trainer.args.ddp_find_unused_parameters": "one process trains",
    "trainer.args.overwrite_output_dir": "nothing is overwritten",
    "trainer.args.no_cuda": "model.device says where it runs",
    "trainer.args.use_cpu": "model.device says where it runs",
    "eval.tofu.batch_size": "scoring fills its batches by a token budget",
    "eval.tofu.overwrite": "results are found by what they are",
    "eval.muse.batch_size": "scoring fills its batches by a token budget",
    "eval.muse.overwrite": "results are found by what they are",
    "eval.lm_eval.overwrite": "results are found by what they are",
    "eval": "the experiment names the benchmark",
    "data": "the experiment names the benchmark",
    "data.forget": "the experiment names the benchmark",
    "data.retain": "the experiment names the benchmark",
    "data/datasets@data.train": "train_split names the rows",
    "collator": "padding is never read",
    "hydra.run.dir": "paths.output_dir says where the result goes",
}


EVALUATION = ("trainer.args.eval_strategy", "trainer.args.evaluation_strategy", "trainer.args.eval_steps")


def _evaluation(words: Sequence[str]) -> dict[str, str]:
    """What each word on evaluation during training becomes: each epoch, or each so many steps; else nothing."""
    given = {w.partition("=")[0].lstrip("+"): w.partition("=")[2] for w in words}
    strategy = next((name for name in EVALUATION[:2] if name in given), "")
    if given.get(strategy) == "epoch":
        return {strategy: "trainer.args.evaluate.every=1.0"}
    if given.get(strategy) == "steps" and EVALUATION[2] in given:
        made = f"trainer.args.evaluate.steps={given[EVALUATION[2]]}"
        return {strategy: made, EVALUATION[2]: made}
    return {}


def translate(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words in this project's names, and a note for each that changed its name or has no effect."""
    out: list[str] = []
    notes: list[str] = []
    how = _evaluation(words)
    for word in words:
        key, equals, value = word.partition("=")
        name = key.lstrip("+")
        if name in EVALUATION:
            made = how.get(name)
            notes.append(f"{name} is now {made}" if made else f"{word} has no effect: see trainer.args.evaluate")
            out += [made] if made and made not in out else []
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
    """`train trainer=retrain` (ARC-SF's names of fine-tuning) says which rows are meant; `train_split` counts more."""
    given = {word.partition("=")[0].lstrip("+"): word.partition("=")[2] for word in words}
    split = SPLIT_OF.get(given.get("trainer", ""))
    if split is None or "train_split" in given:
        return list(words), list(notes)
    return [*words, f"train_split={split}"], [*notes, f"trainer={given['trainer']} trains on train_split={split}"]
