"""Words of other projects: `compat=PROJECT`, and the options of the stories script."""

from __future__ import annotations

from collections.abc import Sequence

from expunge.core.errors import ConfigError, nearest

# The settings of `compat=PROJECT`, which reproduce the numbers of a project's own code.
COMPAT = {
    "arcsf": ("data.args.compat=arcsf",),
    "semeval": (
        "model.model_args.dtype=bfloat16",
        "model.model_args.batched=false",
        "eval.generation.max_new_tokens=256",
    ),
    "tinystories": ("stories.compat=tinystories",),
}

# Options of the scripts of TinyStories (arXiv:2311.12786), SemEval's organisers and participants, and arcsf, and
# the key of each here.
PUBLISHED = {
    "batch_size": "trainer.args.per_device_train_batch_size",
    "max_seq_len": "data.args.max_seq_len",
    "dataset_name": "data.args.dataset_name",
    "eval_dataset_names": "data.args.eval_dataset_names",
    "model_dir": "model.model_args.pretrained_model_name_or_path",
    "data_cache_dir": "data.root",
    "out_dir": "paths.output_dir",
    "wandb_run_name": "task_name",
    "max_iters": "trainer.args.max_steps",
    "warmup_iters": "trainer.args.warmup_steps",
    "beta1": "trainer.args.adam_beta1",
    "beta2": "trainer.args.adam_beta2",
    "grad_clip": "trainer.args.max_grad_norm",
    "eval_interval": "trainer.args.evaluate.steps",
    "eval_iters": "trainer.args.evaluate.rows",
    "generation_eval_iters": "trainer.args.evaluate.prompts",
    "generation_eval_interval_multiplier": "trainer.args.evaluate.generate_every",
    "finegrained_log_iters": "trainer.args.dense_logging_steps",
    "log_interval": "trainer.args.logging_steps",
    "checkpoint_interval": "trainer.args.checkpoint.steps",
    "temperature": "eval.generation.temperature",
    "device": "model.device",
    "lr": "trainer.args.learning_rate",
    "num_epochs": "trainer.args.num_train_epochs",
    "epochs": "trainer.args.num_train_epochs",
    "random_seed": "trainer.args.seed",
    "max_new_tokens": "eval.generation.max_new_tokens",
    "max_length": "model.template_args.max_length",
    "max_seq_length": "model.template_args.max_length",
    "template": "data.args.template",
    "type": "data.args.granularity",
    "lora_r": "trainer.args.lora.r",
    "lora_alpha": "trainer.args.lora.lora_alpha",
    "train_type": "trainer",
    "full_model_name": "model.model_args.pretrained_model_name_or_path",
    "input_model_path": "model.model_args.pretrained_model_name_or_path",
    "output_model_path": "paths.output_dir",
    "forget_set": "data.args.forget_dir",
    "retain_set": "data.args.retain_dir",
    "save_steps": "trainer.args.save_steps",
    "checkpoint_path": "model.model_args.pretrained_model_name_or_path",
    "data_path": "data.root",
    "mia_data_path": "data.args.mia",
    "output_dir": "paths.output_dir",
    **{name: f"trainer.method_args.{name}" for name in ("alpha", "beta", "gamma", "delta", "retain_loss_type")},
    **{
        name: f"trainer.args.{name}"
        for name in ("gradient_accumulation_steps", "learning_rate", "weight_decay", "dropout", "seed", "compile")
    },
}

_SIZE = "write model=llama-8m, -30m, -91m or -210m"
_TOKENS = "write data.root=FOLDER of the tokens, which decide the vocabulary"
_CONSTANT = "write trainer.args.lr_scheduler_type=constant or cosine"
_LOOK = "write expunge inspect"
_WANDB = "write trainer.args.report_to=[wandb]"
_SAVED = "leave it out; the last model is always saved"
# Options of these scripts that have no key of their own here, with the answer.
ANSWERS = {
    **dict.fromkeys(("dim", "n_layers", "n_heads", "n_kv_heads", "multiple_of", "norm_eps"), _SIZE),
    **dict.fromkeys(("vocab_size", "vocab_source"), _TOKENS),
    **dict.fromkeys(("lr_scheduling", "decay_lr"), _CONSTANT),
    **dict.fromkeys(("lenses", "probes", "init_lens_with_unembed"), _LOOK),
    **dict.fromkeys(("wandb_log", "wandb_project", "wandb_entity", "wandb_tags"), _WANDB),
    **dict.fromkeys(("split_shards_pretrain", "pretraining"), "write data.args.split=pretrain, finetune or train"),
    **dict.fromkeys(("always_save_checkpoint", "eval_only"), f"{_SAVED}, and expunge eval measures"),
    **dict.fromkeys(("eval_batch_size", "generation_eval_batch_size"), "leave it out; batches fill a token budget"),
    "init_from": "write model.model_args.pretrained_model_name_or_path=FOLDER to start from a model; a run resumes by "
    "the same command",
    "mmlu_metrics_file_path": "write data.args.mmlu_accuracy=NUMBER of that file, or data.args.mmlu=FOLDER",
    **dict.fromkeys(("compute_metrics_only", "keep_files"), "leave it out; the store keeps all texts and scores"),
    **dict.fromkeys(("retain_subset", "find_forget"), "leave it out; both parts of the retain rows are measured"),
    "padding": "leave it out; a batch is padded to its longest row, which changes no number",
    "refresh": "write expunge eval --refresh FOLDER",
    "save_best_model": "write trainer.args.evaluate.keep=best",
    "min_lr": "leave it out; a cosine ends at 0",
    "top_k": "leave it out; a text is drawn from the whole distribution",
    "dtype": "write trainer.args.bf16=true for training (float16: bf16=false and fp16=true), or "
    "model.model_args.dtype=bfloat16",
    # Options of Hydra
    **dict.fromkeys(("resolve", "package", "info", "hydra-help"), "write --cfg job, which prints the settings"),
    **dict.fromkeys(("multirun", "m"), "write it with train, unlearn or eval; this command shows one job"),
    "experimental-rerun": "write experiment=FOLDER/config.yaml, which runs a finished job's settings again",
    **dict.fromkeys(
        ("experiment_name", "data_config", "model_config", "hyperparameter_config", "full_data_config", "use_bask"),
        "write expunge import arcsf PATH/configs --top NAME --out study.yaml, and run that study",
    ),
    "question_template": "write model.template_args.user_start_tag and user_end_tag",
    "answer_template": "write model.template_args.asst_start_tag and asst_end_tag",
}


# Scripts and commands of these projects in place of a command, with the answer.
SCRIPTS = {
    "tinystories.py": "write `expunge data stories` in place of `python tinystories.py`",
    "download": "write `expunge data stories import roneneldan/TinyStories --out FOLDER`, or name its archive",
    "evaluate_generations.py": "write `expunge eval experiment=eval/semeval/default compat=semeval` in place of it",
    "gen_configs.py": "write `expunge import arcsf PATH/configs --top NAME --out study.yaml`",
    **dict.fromkeys(("full_eval.py", "all_eval.py"), "write `expunge import arcsf`; its study measures all models"),
}


def answer_of(key: str) -> str:
    """Return the words to type for an option of these scripts; "" for any other key."""
    return f"write {PUBLISHED[key]}" if key in PUBLISHED else ANSWERS.get(key, "")


def with_compat(words: Sequence[str], mode: str = "run") -> tuple[list[str], list[str]]:
    """Return the words with the settings that `compat=PROJECT` stands for, and a note. Raises ConfigError.

    These settings come first, so a word of the user's for the same key wins.
    """
    out: list[str] = []
    meant: list[str] = []
    notes: list[str] = []
    for word in words:
        key, _, value = word.partition("=")
        if key.lstrip("+") != "compat":
            out.append(word)
            continue
        if value.lower().replace("-", "").replace("_", "") == "openunlearning":
            raise ConfigError(f"{word}: write profile=openunlearning")
        if value not in COMPAT:
            raise ConfigError(f"compat={value}: no such project{nearest(value, COMPAT)}")
        if value == "tinystories" and mode != "run":
            raise ConfigError(
                f"{word}: is for the texts of stories: expunge data stories import ... --compat tinystories, or a study"
            )
        notes.append(f"{word} stands for {' '.join(COMPAT[value])}")
        meant += COMPAT[value]
    return [*meant, *out], notes
