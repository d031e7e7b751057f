"""The intended differences from OpenUnlearning, and the note that lists them at the start of a job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Methods whose loss differs from OpenUnlearning's, because ours follows the paper.
LOSSES = ("PDU", "RMU", "UNDIAL")
START = "Llama-3.2-1B-Instruct"  # the start model of its experiments on TOFU, with every `model=`
PROFILE = "profile=openunlearning"


@dataclass(frozen=True)
class Difference:
    """A setting that differs by intention: its facts, experiments and values as regular expressions, and the reason.

    same_result: the job has the same result, up to rounding.
    """

    facts: str
    reason: str
    experiments: str = ".*"
    methods: str = ".*"
    same_result: bool = False
    ours: str = ".*"
    theirs: str = ".*"

    def covers(self, fact: str, values: tuple[Any, Any], experiment: str, method: str) -> bool:
        """Return whether this is the reason for two values of one fact, (ours, theirs), of an experiment and method."""
        patterns = ((self.facts, fact), (self.experiments, experiment), (self.methods, method))
        both = ((self.ours, str(values[0])), (self.theirs, str(values[1])))
        return all(re.fullmatch(pattern, text, re.DOTALL) for pattern, text in (*patterns, *both))


# Every difference in the settings of an experiment. docs/how-to/openunlearning.md shows this list.
DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "tok",
        "The tokenizer that was saved with the start model is read. Its tokens are those of the base model.",
        same_result=True,
    ),
    Difference(
        "attn",
        "transformers chooses the attention (sdpa), which needs no further package. It differs by rounding.",
        same_result=True,
    ),
    Difference(
        "dtype",
        "phi-1_5 is scored in bfloat16 like all other models on a GPU; there it is scored in float32.",
        ours="bfloat16",
        theirs="None",
    ),
    Difference(
        r"tpl\.(user|asst)_\w+_tag",
        "A chat template writes these tags itself, so the model's file does not repeat them.",
        same_result=True,
        theirs=".*<.*",
    ),
    Difference(r"tpl\.date_string", "zephyr's chat template reads no date.", same_result=True),
    Difference(
        "model",
        "With another `model=`, the start is that model fine-tuned on TOFU. There the 1B weights stay selected.",
        "(unlearn|eval)/tofu/.*",
        ours="(?!.*Llama-3.2-1B).*",
        theirs="open-unlearning/.*",
    ),
    Difference(
        "holdout_split",
        "The suite of idk names holdout10 in another key there.",
        "unlearn/tofu/idk",
        same_result=True,
    ),
    Difference(
        "forget_split",
        "The split to measure is that of the retain rows that are trained on.",
        "finetune/tofu/.*",
        same_result=True,
    ),
    Difference(
        "evals|metrics",
        "WMDP and MMLU are scored here, by the same rule. For the harness: eval.lm_eval.tasks=[wmdp_cyber,mmlu].",
        "(unlearn|eval)/wmdp/.*",
    ),
    Difference(
        r"ma\..*",
        "The experiment's settings are RMU's. There other methods inherit them, and those with a retain loss stop.",
        "unlearn/wmdp/.*",
        "(?!RMU).*",
    ),
    Difference(r"ma\.loss_names", "PDU has these two losses and no others.", methods="PDU", same_result=True),
)


def difference_of(fact: str, values: tuple[Any, Any], experiment: str, method: str) -> Difference | None:
    """Return the listed difference of a fact, (ours, theirs), or None if it should be equal."""
    return next((d for d in DIFFERENCES if d.covers(fact, values, experiment, method)), None)


def notes_on_differences(
    mode: str, experiment: str, tree: Mapping[str, Any], start_is_set: bool, replaced: str | None
) -> list[str]:
    """Return the lines that name the differences in this job, and the word that gives OpenUnlearning's forms.

    experiment: one of its names. start_is_set: the user named the start model. replaced: the experiment's model, if a
    folder replaced its template.
    """
    source = tree["model"]["model_args"]["pretrained_model_name_or_path"] or tree["model"]["preset"]
    notes = []
    tofu = "/tofu/" in experiment and tree.get("benchmark") == "tofu"
    if not start_is_set and mode != "train" and tofu and "tofu" not in str(source):
        notes.append(
            f"{source}: its name does not say that it was fine-tuned on TOFU; a model that was not has nothing to "
            "forget. Name one by model.model_args.pretrained_model_name_or_path="
        )
    elif (
        not start_is_set
        and mode != "train"
        and tofu
        and str(source).startswith("open-unlearning/")
        and START not in str(source)
    ):
        notes.append(
            f"the start is {source}; OpenUnlearning keeps its {START} until the command has "
            "model.model_args.pretrained_model_name_or_path="
        )
    if mode == "unlearn" and tofu and tree.get("retain_split") is None:
        from expunge.data.loaders.tofu import FORGET, retain_for

        forget = tree.get("forget_split")
        if forget in FORGET and (partner := retain_for(forget)) != "retain90":
            notes.append(
                f"the retain rows are {partner}, which belong to forget_split={forget}; OpenUnlearning keeps retain90 "
                f"until the command has retain_split={partner}"
            )
    if replaced:
        notes.append(
            f"{source} is read with its own tokenizer and chat template; add model={replaced} for that model's "
            "tokenizer, template, system prompt and date, as in OpenUnlearning"
        )
    return [*notes, *([] if tree.get("profile") else _forms(mode, tree))]


def _forms(mode: str, tree: Mapping[str, Any]) -> list[str]:
    """Return the line on formulas that differ from OpenUnlearning's in this job."""
    trainer = tree["trainer"]
    differs = []
    if mode != "eval":
        method, args, own = trainer["handler"], trainer["args"], trainer.get("method_args") or {}
        if mode == "unlearn" and (method in LOSSES or own.get("retain_loss_type") in ("KL", "EMBED_DIFF")):
            differs.append(f"the loss of {method} (as in its paper)")
        if args.get("gradient_accumulation_steps", 1) != 1:
            differs.append("the mean over a step (all its tokens or rows)")
    if (tree.get("model", {}).get("template_args") or {}).get("compat", "clean") == "clean":
        differs.append("the scored tokens (every token of the answer)")
    if mode != "train" and tree.get("eval", {}).get("compat", "clean") == "clean":
        differs.append("metrics at their limits (extraction strength, privleak without a retain model)")
    if not differs:
        return []
    return [f"differs from OpenUnlearning by intention: {', '.join(differs)}; {PROFILE} gives its forms"]
