"""OpenUnlearning's commands, composed here and compared with the settings that they have in that project.

python -m tests.interop.open_unlearning_commands COMMANDS.jsonl prints how many have equal settings, for each script.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from expunge.cli.compose import check, single_tree
from expunge.core.errors import ConfigError
from expunge.interop.open_unlearning.differences import difference_of
from expunge.interop.open_unlearning.facts import facts

TWIN = json.loads(Path(__file__).with_name("open_unlearning.json").read_text(encoding="utf-8"))
WORDS = {
    "model.model_args.pretrained_model_name_or_path": "model",
    "trainer.args.gradient_checkpointing": "args.gradient_checkpointing",
    "data.train.TOFU_QA_retain.args.hf_args.name": "train_split",
    "data.train.TOFU_QA_full.args.hf_args.name": "train_split",
    **{key: key for key in ("forget_split", "retain_split", "holdout_split", "data_split")},
}
VALUES = {"true": True, "false": False, "null": None}


def mode_of(argv: Sequence[str]) -> str:
    """Return the command of ours that a command of theirs is."""
    if argv[0].endswith("eval.py"):
        return "eval"
    return "unlearn" if "--config-name=unlearn.yaml" in argv else "train"


def words_of(argv: Sequence[str]) -> list[str]:
    """Return the words of a command without its program and options."""
    return [word for word in argv[1:] if not word.startswith("--")]


def their_facts(mode: str, words: Sequence[str]) -> dict[str, Any]:
    """Return the settings that a command has in its own project, from the twin and its words."""
    choice = dict(word.lstrip("+").split("=", 1) for word in words if "=" in word)
    experiment = choice["experiment"].removesuffix(".yaml")
    entry = next(e for e in TWIN["experiments"] if e["mode"] == mode and e["experiment"] == experiment)
    own = entry["methods"][choice.get("trainer", "")]
    out = {**entry["facts"], **own, **TWIN["models"][choice["model"]]}
    if mode == "train":
        out["model"] = out["tok"]
    if "data_split" in choice and "MUSE-News" in str(out["model"]):
        out["model"] = f"muse-bench/MUSE-{choice['data_split']}_target"
    for key, text in choice.items():
        if key in ("model", "trainer", "experiment"):
            continue
        fact = WORDS.get(key) or key.replace("trainer.method_args.", "ma.").replace("trainer.args.", "args.")
        if fact in out or key in WORDS:
            out[fact] = _value(text)
    return out


def _value(text: str) -> Any:
    if text.lower() in VALUES:
        return VALUES[text.lower()]
    try:
        return float(text)
    except ValueError:
        return text


def differing(argv: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ from theirs, as (ours, theirs). Raises ConfigError for a refused command."""
    mode, words = mode_of(argv), words_of(argv)
    check(mode, words)
    tree = single_tree(mode, words)[0]
    theirs = their_facts(mode, words)
    ours = json.loads(json.dumps(facts(mode, tree, theirs["metrics"][0][1])))
    return {key: (ours.get(key), value) for key, value in theirs.items() if ours.get(key) != value}


def judged(argv: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return "same", "different", "refused" or "unexplained", and the settings or the message that show it."""
    words = dict(word.split("=", 1) for word in words_of(argv) if "=" in word)
    experiment = words["experiment"].removesuffix(".yaml")
    try:
        result = differing(argv)
    except ConfigError as error:
        return "refused", {"message": str(error)}
    listed = {key: difference_of(key, result[key], experiment, words.get("trainer", "")) for key in result}
    if unknown := {key: result[key] for key, difference in listed.items() if difference is None}:
        return "unexplained", unknown
    changing = {key: result[key] for key, difference in listed.items() if difference and not difference.same_result}
    return ("different", changing) if changing else ("same", {})


def counts(lines: Sequence[Mapping[str, Any]]) -> dict[str, Counter[str]]:
    """Return the number of commands of each kind, by script."""
    out: dict[str, Counter[str]] = {}
    with mock.patch("expunge.cli.compose._check_files"):  # the models that they name are not here
        for line in lines:
            out.setdefault(line["script"], Counter())[judged(line["argv"])[0]] += 1
    return out


if __name__ == "__main__":
    commands = [json.loads(line) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
    kinds = ("same", "different", "refused", "unexplained")
    rows = counts(commands)
    rows["all"] = sum(rows.values(), Counter())
    for script, row in rows.items():
        print(f"{script:36}", *(f"{row[kind]:5} {kind}" for kind in kinds))
