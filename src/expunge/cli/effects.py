"""Accepted settings that change nothing: each is named in a note, so that no setting is ignored silently."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from expunge.cli.schema import tree_of
from expunge.core.decode import merge, value_at
from expunge.core.fingerprints import canonical
from expunge.training.config import TrainArgs

Tree = Mapping[str, Any]
# (modes, prefix of the key, whether the key has no effect, the reason)
Rule = tuple[Sequence[str], str, Callable[[Tree], bool], str]
ALL = ("run", "train", "unlearn", "eval")
TAGS = ("user_start_tag", "user_end_tag", "asst_start_tag", "asst_end_tag")


def _loaded(tree: Tree) -> bool:
    return bool(value_at(tree, "model.model_args.pretrained_model_name_or_path"))


def _chat(tree: Tree) -> bool:
    return bool(value_at(tree, "model.template_args.apply_chat_template"))


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
    *((ALL, f"{side}_split", _without_splits, "this benchmark has no splits") for side in SIDES),
    (("unlearn", "eval"), "train_split", lambda tree: True, "it is for `expunge train`"),
    (("train", "eval"), "data.alternates", lambda tree: True, "only methods of `expunge unlearn` read other answers"),
    (
        ("train",),
        "retain_split",
        lambda tree: tree.get("train_split") not in ("retain", tree.get("retain_split")),
        "train_split names the rows to train on",
    ),
    (("train",), "retain_logs_path", lambda tree: True, "`expunge train` measures nothing"),
    (("eval",), "trainer", lambda tree: True, "`expunge eval` trains nothing"),
    (("eval",), "trainer.", lambda tree: True, "`expunge eval` trains nothing"),
    (
        ("train", "unlearn"),
        "trainer.args.report_dir",
        lambda tree: not value_at(tree, "trainer.args.report_to"),
        "trainer.args.report_to names no reporter",
    ),
    (
        ("run", "unlearn", "eval"),
        "eval.judge",
        lambda tree: not any(str(name).startswith("judgement") for name in value_at(tree, "eval.metrics") or ()),
        "eval.metrics names no judgement",
    ),
    (
        ALL,
        "eval.lm_eval.",
        lambda tree: not value_at(tree, "eval.lm_eval.tasks"),
        "eval.lm_eval.tasks names no task",
    ),
    (
        ("run", "unlearn", "eval"),
        "eval.split_",
        lambda tree: value_at(tree, "eval.split") == "all" and not value_at(tree, "sweep.trials"),
        "eval.split is all",
    ),
)


def _off(key: str, value: Any, reason: str) -> TrainRule:
    """Return a rule whose settings are idle if another setting has a value."""
    return key, lambda args: value_at(args, key) == value, reason


def _on(key: str) -> TrainRule:
    """Return a rule whose settings are idle if another setting, which replaces them, is set."""
    return key, lambda args: value_at(args, key) not in (None, -1), f"{key} is set and counts"


def _no_evaluation(args: Tree) -> bool:
    return value_at(args, "evaluate.every") is None and value_at(args, "evaluate.steps") is None


def _no_choice(args: Tree) -> bool:
    return value_at(args, "evaluate.keep") == "last" and value_at(args, "evaluate.patience") is None


def _no_betas(args: Tree) -> bool:
    return "." in str(args.get("optim")) or not re.search("adam|lion", str(args.get("optim")))


def _no_epsilon(args: Tree) -> bool:
    return _no_betas(args) or "lion" in str(args.get("optim"))


# (the setting that decides, whether others are idle, the reason). A grid, a sweep or an entry of `methods` may change
# the deciding setting for some runs; then there is no note.
TrainRule = tuple[str, Callable[[Tree], bool], str]
CONSTANT = _off("lr_scheduler_type", "constant", "lr_scheduler_type=constant has no warm-up; use constant_with_warmup")
NO_EVALUATION = "evaluate", _no_evaluation, "evaluate.every and evaluate.steps are null, so nothing is evaluated"
OPTIM = "this optimizer does not read it (see optim_args)"
TRAIN_RULES: tuple[tuple[str, TrainRule], ...] = (
    ("warmup_steps", CONSTANT),
    ("warmup_epochs", CONSTANT),
    ("warmup_steps", _on("warmup_epochs")),
    ("num_train_epochs", _on("max_steps")),
    ("reference_topk", _off("reference", "exact", "reference is exact")),
    ("adam_epsilon", ("optim", _no_epsilon, OPTIM)),
    ("adam_beta1", ("optim", _no_betas, OPTIM)),
    ("adam_beta2", ("optim", _no_betas, OPTIM)),
    *((f"evaluate.{key}", NO_EVALUATION) for key in ("panel", "rows", "at_start", "generate_every", "rule.")),
    ("evaluate.rule.", ("evaluate", _no_choice, "evaluate.keep is last and evaluate.patience is null")),
    ("evaluate.rows", _off("evaluate.panel", "full", "evaluate.panel=full reads all rows")),
    ("evaluate.generate_every", _off("evaluate.prompts", 0, "evaluate.prompts is 0, so nothing is generated")),
    ("checkpoint.every_s", _on("checkpoint.steps")),
)


def _train_notes(mode: str, tree: Tree, keys: Collection[str]) -> Iterator[str]:
    """Yield a note for each setting of training that another one makes idle."""
    standard = canonical(TrainArgs())
    sections = ("train", "unlearn") if mode == "run" else ("trainer.args",)
    varied = repr([tree.get(name) for name in ("grid", "grid_cells", "methods", "sweep")]) if mode == "run" else ""
    noted: set[str] = set()
    for section, (suffix, (deciding, idle, reason)) in itertools.product(sections, TRAIN_RULES):
        args = merge(standard, value_at(tree, section) or {})
        if all(any(key.startswith(f"{section}.{name}") for key in keys) for name in standard):
            continue  # the settings of an earlier run as it wrote them: most are nobody's choice
        for key in sorted(set(keys) - noted):
            own = key.removeprefix(f"{section}.")
            named = own == suffix or (suffix[-1] == "." and own.startswith(suffix))
            if key == own or not named or deciding.partition(".")[0] in varied:
                continue
            if value_at(args, own) != value_at(standard, own) and idle(args):
                noted.add(key)
                yield f"{key} has no effect: {reason}"


def notes_on_effects(mode: str, tree: Tree, keys: Collection[str]) -> list[str]:
    """Return a note for each key that has no effect with the other settings."""
    out = []
    defaults = {**tree_of(mode), "trainer": {"args": canonical(TrainArgs())}}
    for modes, prefix, idle, reason in RULES:
        if mode not in modes:
            continue
        for key in sorted(keys):
            named = key == prefix or (prefix[-1] in "._" and key.startswith(prefix))
            if named and value_at(tree, key) != value_at(defaults, key) and idle(tree):
                out.append(f"{key} has no effect: {reason}")
    out += _train_notes(mode, tree, keys) if mode != "eval" else ()
    if "methods" in keys and not tree.get("methods"):
        out.append("methods is empty: this study unlearns nothing")
    return out
