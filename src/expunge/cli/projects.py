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

# Options of the training script of TinyStories (arXiv:2311.12786), for the error on an unknown key.
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
    **{
        name: f"trainer.args.{name}"
        for name in ("gradient_accumulation_steps", "learning_rate", "weight_decay", "dropout", "seed", "compile")
    },
}


def with_compat(words: Sequence[str]) -> tuple[list[str], list[str]]:
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
        if value not in COMPAT:
            raise ConfigError(f"compat={value}: no such project{nearest(value, COMPAT)}")
        notes.append(f"{word} stands for {' '.join(COMPAT[value])}")
        meant += COMPAT[value]
    return [*meant, *out], notes
