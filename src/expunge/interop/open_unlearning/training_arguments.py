"""Arguments of transformers' Trainer that OpenUnlearning's commands can set, without the prefix `trainer.args.`.

An argument has another name here, or changes no result, or is refused with the word to type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

RENAMED: Mapping[str, str] = {
    "gradient_checkpointing": "activation_checkpointing",
    "warmup_ratio": "warmup_steps",
    "eval_on_start": "evaluate.at_start",
    "torch_compile": "compile",
}

_SPEED = "it changes the speed only"
_MEMORY = "it changes speed and memory only"
BUDGET = "scoring fills its batches by a token budget"
_LOG = "the log is next to the model"
_EVALUATION = "evaluations have their own form (see docs/how-to/measure.md)"
_COLUMNS = "batches contain the columns that the method needs"
_RESUME = "an unfinished job resumes by itself"
_DEVICE = "model.device sets the device"
_PROCESSES = "the processes of a launcher exchange their gradients in one way"
_UNUSED = "no reporter here reads it"
_DTYPE = "trainer.args.bf16 and model.model_args.dtype decide the precision"
# Arguments that change no result here, with the reason.
WITHOUT_EFFECT: Mapping[str, str] = {
    "per_device_eval_batch_size": BUDGET,
    "per_gpu_eval_batch_size": BUDGET,
    "save_total_limit": "every model that trainer.args.save_strategy keeps stays",
    "save_only_model": "a saved model has no optimizer state",
    "save_safetensors": "models are always safetensors",
    "save_on_each_node": "the first process saves the model",
    "bf16_full_eval": "scoring follows model.model_args.dtype",
    "fp16_full_eval": "scoring follows model.model_args.dtype",
    "fp16_backend": _DTYPE,
    "fp16_opt_level": _DTYPE,
    "half_precision_backend": _DTYPE,
    "logging_dir": _LOG,
    "logging_strategy": _LOG,
    "logging_first_step": _LOG,
    "logging_nan_inf_filter": _LOG,
    "log_level": _LOG,
    "log_level_replica": _LOG,
    "log_on_each_node": "the first process writes the log",
    "include_num_input_tokens_seen": _LOG,
    "include_tokens_per_second": _LOG,
    "output_dir": "paths.output_dir sets the place of the result",
    "overwrite_output_dir": "nothing is overwritten",
    "do_eval": "`expunge unlearn` measures its model once, at the end",
    "prediction_loss_only": _EVALUATION,
    "eval_accumulation_steps": _EVALUATION,
    "eval_do_concat_batches": _EVALUATION,
    "eval_use_gather_object": _EVALUATION,
    "batch_eval_metrics": _EVALUATION,
    "include_for_metrics": _EVALUATION,
    "include_inputs_for_metrics": _EVALUATION,
    "past_index": _EVALUATION,
    "remove_unused_columns": _COLUMNS,
    "label_names": _COLUMNS,
    "length_column_name": "the lengths are those of the tokens",
    "ddp_find_unused_parameters": "no parameter of a loss is unused",
    "ddp_backend": _PROCESSES,
    "ddp_broadcast_buffers": _PROCESSES,
    "ddp_bucket_cap_mb": _PROCESSES,
    "ddp_static_graph": _PROCESSES,
    "ddp_timeout": _PROCESSES,
    "local_rank": "the launcher numbers the processes",
    "average_tokens_across_devices": "trainer.args.accumulation decides the mean of a step, over all processes",
    "no_cuda": _DEVICE,
    "use_cpu": _DEVICE,
    "use_mps_device": _DEVICE,
    "dataloader_num_workers": _SPEED,
    "dataloader_pin_memory": _SPEED,
    "dataloader_persistent_workers": _SPEED,
    "dataloader_prefetch_factor": _SPEED,
    "dataloader_multiprocessing_context": _SPEED,
    "dataloader_in_order": _SPEED,
    "torch_compile_backend": _SPEED,
    "torch_compile_mode": _SPEED,
    "torch_empty_cache_steps": _MEMORY,
    "gradient_checkpointing_kwargs": _MEMORY,
    "activation_checkpointing_kwargs": _MEMORY,
    "use_liger_kernel": _MEMORY,
    "liger_kernel_config": _MEMORY,
    "use_cache": "training reads whole rows",
    "skip_memory_metrics": _LOG,
    # Arguments of transformers before 5
    **dict.fromkeys(("jit_mode_eval", "use_ipex", "dispatch_batches"), _SPEED),
    **dict.fromkeys(("tpu_num_cores", "_n_gpu"), _DEVICE),
    "tpu_metrics_debug": _LOG,
    "use_legacy_prediction_loop": _EVALUATION,
    "ray_scope": "a search of settings is the key `sweep` of a study",
    "debug": _LOG,
    "disable_tqdm": "-q turns progress off",
    "enable_jit_checkpoint": _RESUME,
    "restore_callback_states_from_checkpoint": _RESUME,
    "run_name": "task_name names the run",
    "project": _UNUSED,
    "trackio_space_id": _UNUSED,
    "trackio_bucket_id": _UNUSED,
    "trackio_static_space_id": _UNUSED,
    "hub_strategy": "jobs upload nothing",
}

# The defaults of transformers, which count there for an argument that `~trainer.args.KEY` removes.
DEFAULTS: Mapping[str, str] = {
    "learning_rate": "5e-5",
    "num_train_epochs": "3.0",
    "max_steps": "-1",
    "per_device_train_batch_size": "8",
    "gradient_accumulation_steps": "1",
    "weight_decay": "0.0",
    "warmup_epochs": "null",
    "warmup_steps": "0",
    "warmup_ratio": "0",
    "lr_scheduler_type": "linear",
    "optim": "adamw_torch",
    "bf16": "false",
    "fp16": "false",
    "gradient_checkpointing": "false",
    "seed": "42",
    "max_grad_norm": "1.0",
    "logging_steps": "500",
    "eval_on_start": "false",
}

PUSH = "write the option --push OWNER/NAME, or use UnlearnTrainer.push_to_hub()"
LAUNCH = (
    "start several processes by `accelerate launch --config_file FILE -m expunge ...` (see docs/how-to/training.md)"
)
_BATCH = "write trainer.args.per_device_train_batch_size=N, with gradient_accumulation_steps for an equal step"
# Arguments that cannot act here, with the words to type instead.
REFUSED: Mapping[str, str] = {
    "deepspeed": LAUNCH,
    "fsdp": LAUNCH,
    "fsdp_config": LAUNCH,
    **dict.fromkeys(("fsdp_min_num_params", "fsdp_transformer_layer_cls_to_wrap", "split_batches"), LAUNCH),
    "mp_parameters": LAUNCH,
    "adafactor": "write trainer.args.optim=adafactor",
    "torchdynamo": "write trainer.args.compile=true",
    "push_to_hub_organization": PUSH,
    "push_to_hub_token": PUSH,
    "accelerator_config": LAUNCH,
    "parallelism_config": LAUNCH,
    "hub_model_id": PUSH,
    "hub_private_repo": PUSH,
    "hub_token": PUSH,
    "hub_always_push": PUSH,
    "hub_revision": PUSH,
    "push_to_hub_model_id": PUSH,
    "auto_find_batch_size": _BATCH,
    "per_gpu_train_batch_size": _BATCH,
    "dataloader_drop_last": "write trainer.args.whole_steps=true, which leaves out the unfinished step of a pass",
    "do_predict": "to measure a model, write expunge eval",
    "eval_delay": "write trainer.args.evaluate.every=EPOCHS or trainer.args.evaluate.steps=N",
    "full_determinism": "leave it out; trainer.args.seed decides all random numbers",
    "ignore_data_skip": "leave it out; a job that resumes continues with its next rows",
    "label_smoothing_factor": "leave it out; the losses are not smoothed",
    "lr_scheduler_kwargs": "leave it out; the schedules have transformers' own constants",
    "neftune_noise_alpha": "leave it out; the embeddings have no noise",
    "optim_target_modules": "leave it out; every weight has the same optimizer",
    "resume_from_checkpoint": "run the same command again: an unfinished job resumes by itself",
    "tf32": f"leave it out; {_DTYPE}",
    "train_sampling_strategy": "write trainer.args.group_by_length=true or false",
}

# The values that null and an empty text stand for in transformers. None: the argument is not set.
NULL: Mapping[str, str | None] = {
    **dict.fromkeys(("bf16", "fp16", "group_by_length", "gradient_checkpointing", "torch_compile"), "false"),
    "eval_on_start": "false",
    "max_grad_norm": "0",
    "optim_args": "{}",
    **dict.fromkeys(("greater_is_better", "evaluation_strategy", "eval_steps"), None),
}
OPTIMIZERS: Mapping[str, str] = {"rmsprop": "torch.optim.RMSprop", "adagrad": "torch.optim.Adagrad"}
# Schedules that need an evaluation or settings of their own, with the nearest schedule here.
SCHEDULES: Mapping[str, str] = {
    "reduce_lr_on_plateau": "write constant or linear; a learning rate follows the steps, not an evaluation",
    "cosine_with_min_lr": "write cosine, which ends at 0",
    "cosine_warmup_with_min_lr": "write cosine, which ends at 0",
    "warmup_stable_decay": "write constant_with_warmup, which does not end with a decay",
}
WARMUP = ("warmup_steps", "warmup_ratio")


def as_read_there(words: Sequence[str], notes: list[str], context: Sequence[str] = ()) -> list[str]:
    """Return the words with the values that transformers reads: null, and a warm-up of zero next to another one.

    context: further words of the same command.
    """
    values = {word.partition("=")[0].lstrip("+"): word.partition("=")[2] for word in (*context, *words)}
    warmup = [values.get(f"trainer.args.{name}") for name in WARMUP]
    idle = [_is_zero(value) for value in warmup if value is not None]
    out = []
    for word in words:
        key, _, value = word.partition("=")
        group, _, name = key.lstrip("+").rpartition(".")
        if group != "trainer.args":
            out.append(word)
            continue
        if value.lower() in ("null", "") and name in NULL:
            new = NULL[name]
        elif name in WARMUP and idle in ([True, False], [False, True]) and _is_zero(value):
            new = None
            notes.append(f"{word} has no effect: the other setting of the warm-up counts")
        else:
            new = OPTIMIZERS.get(value, value) if name == "optim" else value
        if new is not None:
            out.append(word if new == value else f"{key}={new}")
        if new not in (value, None):
            notes.append(f"{word} is now trainer.args.{name}={new}")
    return out


def _is_zero(value: str) -> bool:
    try:
        return float(value) == 0
    except ValueError:
        return value.lower() == "null"


def prefixed(table: Mapping[str, str], *, values: bool = False) -> dict[str, str]:
    """Return a table by the words of a command line. values: its values are arguments, too."""
    return {f"trainer.args.{key}": f"trainer.args.{value}" if values else value for key, value in table.items()}
