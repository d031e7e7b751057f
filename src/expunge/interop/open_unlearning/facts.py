"""The facts of a composed job under OpenUnlearning's names, to compare with that project's own settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expunge.benchmarks.metric_suite import tofu_panel
from expunge.benchmarks.muse import muse_panel
from expunge.data.loaders.tofu import retain_for

ARGS = (
    "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps",
    "weight_decay", "warmup_epochs", "warmup_steps", "lr_scheduler_type", "optim", "bf16", "seed", "max_grad_norm",
)  # fmt: skip
TEMPLATE = (
    "apply_chat_template", "system_prompt", "date_string", "user_start_tag", "user_end_tag", "asst_start_tag",
    "asst_end_tag",
)  # fmt: skip
HANDLERS = {"finetune": "FinetuneTrainer", "AltPO": "DPO", "IdkDPO": "DPO"}


def facts(mode: str, tree: Mapping[str, Any], shown: Sequence[str] = ()) -> dict[str, Any]:
    """Return the facts of a composed tree.

    shown: the metrics to look for in the suite. `metrics` lists only the metrics that the suite has.
    """
    model, args = tree["model"], tree["trainer"]["args"]
    own = model["model_args"]
    source = own["pretrained_model_name_or_path"]
    out: dict[str, Any] = {
        "model": source,
        "tok": model["tokenizer_args"]["pretrained_model_name_or_path"] or source,
        "dtype": "bfloat16" if own["dtype"] == "auto" else own["dtype"],
        "attn": own["attn_implementation"],
        **{f"tpl.{key}": model["template_args"].get(key) for key in TEMPLATE},
        **_splits(mode, tree),
        "evals": [tree["benchmark"]],
        "metrics": [[tree["benchmark"], _metrics(tree, shown)]],
        "maxlen": sorted({model["template_args"].get("max_length") or 512, *([2048] * (tree["benchmark"] == "muse"))}),
    }
    if mode == "eval":
        return out
    out |= {f"args.{key}": args[key] for key in ARGS}
    out |= _evaluation(args)
    out["args.gradient_checkpointing"] = args["activation_checkpointing"]
    out["args.warmup_ratio"] = args["warmup_steps"] if 0 < args["warmup_steps"] < 1 else 0.0
    handler = tree["trainer"]["handler"]
    out["handler"] = HANDLERS.get(handler, handler)
    out["anchor"] = args["anchor"] if mode == "unlearn" else None
    out |= {f"ma.{key}": value for key, value in (tree["trainer"].get("method_args") or {}).items()}
    return out


def _splits(mode: str, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names of the splits, with the partners of a TOFU split that are not named."""
    forget, retain, holdout = (tree[f"{side}_split"] for side in ("forget", "retain", "holdout"))
    if tree["benchmark"] == "tofu" and forget:
        retain = retain or (retain_for(forget) if mode == "unlearn" else None)
    return {
        "forget_split": forget,
        "retain_split": retain,
        "holdout_split": holdout,
        "data_split": tree["data_split"],
        "train_split": tree["train_split"] if mode == "train" else None,
    }


def _evaluation(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return when a run is evaluated, in transformers' words."""
    evaluate = args["evaluate"]
    strategy = "epoch" if evaluate["every"] else "steps" if evaluate["steps"] else "no"
    steps = evaluate["steps"]
    if steps and args["max_steps"] > 0:
        steps = steps / args["max_steps"]
    return {
        "args.eval_strategy": strategy,
        "args.eval_steps": steps,
        "args.eval_on_start": evaluate["at_start"] and strategy != "no",
    }


def _metrics(tree: Mapping[str, Any], shown: Sequence[str]) -> list[str]:
    """Return the metrics of `shown` that the job's suite has."""
    if tree["benchmark"] == "muse":
        names = {m.name for m in muse_panel()}
    else:
        names = {m.name for m in tofu_panel(holdout=tree["holdout_split"] is not None)}
    return [name for name in shown if name in names]
