"""Accepted settings that change nothing: each is named in a note, so that no setting is ignored silently."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from expunge.cli.schema import tree_of
from expunge.core.fingerprints import canonical
from expunge.training.config import TrainArgs

Tree = Mapping[str, Any]
# (modes, prefix of the key, whether the key has no effect, the reason)
Rule = tuple[Sequence[str], str, Callable[[Tree], bool], str]
ALL = ("run", "train", "unlearn", "eval")
TAGS = ("user_start_tag", "user_end_tag", "asst_start_tag", "asst_end_tag")


def _get(tree: Tree, key: str) -> Any:
    here: Any = tree
    for part in key.split("."):
        here = here.get(part) if isinstance(here, Mapping) else None
    return here


def _loaded(tree: Tree) -> bool:
    return bool(_get(tree, "model.model_args.pretrained_model_name_or_path"))


def _chat(tree: Tree) -> bool:
    return bool(_get(tree, "model.template_args.apply_chat_template"))


def _without_splits(tree: Tree) -> bool:
    return tree.get("benchmark") in ("world", "custom")


def _ready_text(tree: Tree) -> bool:
    return tree.get("benchmark") in ("semeval", "stories")


SIDES = ("forget", "retain", "holdout", "data")
# The template's settings for questions and answers. `max_length` and `labels` count for every row.
CONVERSATION = (
    *TAGS, "apply_chat_template", "chat_template", "template_kwargs", "thought", "system_prompt",
    "system_prompt_with_special_tokens", "date_string", "few_shot",
)  # fmt: skip
SOURCE = "model.model_args.pretrained_model_name_or_path names a model to load"
RULES: tuple[Rule, ...] = (
    (ALL, "model.preset", _loaded, SOURCE),
    (ALL, "model.vocab_size", _loaded, SOURCE),
    (ALL, "model.init_seed", _loaded, SOURCE),
    *((ALL, f"model.template_args.{tag}", _chat, "the model's chat template is used") for tag in TAGS),
    (
        ALL,
        "model.template_args.system_prompt",
        lambda tree: not _chat(tree),
        "model.template_args.apply_chat_template is false",
    ),
    *(
        (
            ALL,
            f"model.template_args.{key}",
            _ready_text,
            "the rows are texts without a template (for SemEval see data.args.template)",
        )
        for key in CONVERSATION
    ),
    (ALL, "data.world.", lambda tree: tree.get("benchmark") != "world", "the benchmark is not world"),
    (ALL, "forget", lambda tree: tree.get("benchmark") != "custom", "only benchmark=custom reads a file to forget"),
    (ALL, "retain", lambda tree: tree.get("benchmark") != "custom", "only benchmark=custom reads a file to retain"),
    *((ALL, f"{side}_split", _without_splits, "this benchmark has no splits") for side in SIDES),
    (("unlearn", "eval"), "train_split", lambda tree: True, "it is for `expunge train`"),
    (("train", "eval"), "data.alternates", lambda tree: True, "only methods of `expunge unlearn` read other answers"),
    (("train",), "retain_logs_path", lambda tree: True, "`expunge train` measures nothing"),
    (("eval",), "trainer.", lambda tree: True, "`expunge eval` trains nothing"),
    (
        ("train", "unlearn"),
        "trainer.args.report_dir",
        lambda tree: not _get(tree, "trainer.args.report_to"),
        "trainer.args.report_to names no reporter",
    ),
    (
        ALL,
        "eval.lm_eval.",
        lambda tree: not _get(tree, "eval.lm_eval.tasks"),
        "eval.lm_eval.tasks names no task",
    ),
    (
        ("run", "unlearn", "eval"),
        "eval.split_",
        lambda tree: _get(tree, "eval.split") == "all" and not _get(tree, "sweep.trials"),
        "eval.split is all",
    ),
)


def notes_on_effects(mode: str, tree: Tree, keys: Collection[str]) -> list[str]:
    """Return a note for each key that has no effect with the other settings."""
    out = []
    defaults = {**tree_of(mode), "trainer": {"args": canonical(TrainArgs())}}
    for modes, prefix, idle, reason in RULES:
        if mode not in modes:
            continue
        for key in sorted(keys):
            named = key == prefix or (prefix[-1] in "._" and key.startswith(prefix))
            if named and _get(tree, key) != _get(defaults, key) and idle(tree):
                out.append(f"{key} has no effect: {reason}")
    if "methods" in keys and not tree.get("methods"):
        out.append("methods is empty: this study unlearns nothing")
    return out
