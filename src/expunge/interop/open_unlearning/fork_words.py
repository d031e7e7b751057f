"""Words that forks of OpenUnlearning share and the project itself does not have: adapters, saving, searches.

Only a word that the project's own tables lack is looked up here, so most commands do not import this file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from expunge.core.errors import ConfigError, nearest

TARGET = "trainer.args.lora"
# The places of an adapter's settings in forks, and the settings that have the same name here.
LORA = re.compile(r"model\.(?:model_args\.)?(?:lora_config|lora_args|peft_config|peft_args|lora)\.(\w+)")
LORA_KEYS = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias")
# The values here of the settings that a fork's file of a model usually sets.
DEFAULTS: Mapping[str, str] = {"r": "16", "lora_alpha": "32", "lora_dropout": "0", "target_modules": "all-linear"}
# Further settings of an adapter with the only value that they can have here.
LORA_FIXED: Mapping[str, tuple[str, ...]] = {
    "task_type": ("causal_lm",),
    "inference_mode": ("false",),
    "use_rslora": ("false",),
    "use_dora": ("false",),
    "fan_in_fan_out": ("false",),
    "modules_to_save": ("null",),
    "path": ("null",),
}
# The settings of a suite of metrics, such as eval.tofu, that stand at the top of a command here.
SUITE = re.compile(
    r"eval\.(\w+)\.((?:forget|retain|holdout|data)_split|retain_logs_path|question_key|batch_size|overwrite|handler)"
)
SWITCHES = ("model.use_lora", "model.model_args.use_lora")
BASE = ("model.model_args.base_model_name_or_path", "model.base_model_name_or_path")
SAVES = ("do_save", "trainer.do_save")
FALSE = ("false", "no", "off", "0", "null", "none", "")
CLASSES = ("AutoModelForCausalLM",)

_SAVED = "has no effect: a job always saves its model"
_SEARCH = "a search is the key `sweep` of a study (see docs/how-to/studies.md); --multirun runs a grid of values"
_ADAPTER = f"write the settings of that file, such as {TARGET}.r=32 {TARGET}.lora_alpha=32"
_BITS = (
    f"write {TARGET}.quantize=nf4 to train on a quantised model; `expunge audit MODEL --forget FILE --audits quantize` "
    "measures one"
)
REFUSED: Mapping[str, str] = {
    "adapter": _ADAPTER,
    "peft": _ADAPTER,
    "lora": _ADAPTER,
    "quantization": _BITS,
    "model.quantization_config": _BITS,
    "model.quantization_handler": _BITS,
    "hydra/sweeper": _SEARCH,
    "hydra/launcher": "`expunge export slurm` writes the jobs of a study as scripts",
}
REFUSED_GROUPS: Mapping[str, str] = {
    "hydra.sweeper.": _SEARCH,
    "hydra.launcher.": REFUSED["hydra/launcher"],
    "model.quantization_config.": _BITS,
}


def fork_word(mode: str, name: str, value: str, values: Mapping[str, str]) -> tuple[list[str], list[str]] | None:
    """Return the words for a word of forks, and the notes; None for any other word. Raises ConfigError.

    mode: the command. values: all words of the command by key.
    """
    word = f"{name}={value}"
    if match := LORA.fullmatch(name):
        return _adapter(mode, match[1], name, value, values)
    if match := SUITE.fullmatch(name):
        instead = f"write {match[2]}={value}" if match[2].endswith(("_split", "_path")) else "leave it out"
        raise ConfigError(
            f"{word}: no suite {match[1]!r} here; {instead}, and choose metrics by eval.metrics=[NAME,...]"
        )
    if name in SWITCHES:
        return _switch(mode, name, value, values)
    if name in BASE:
        if value.lower() in FALSE:
            return [], []
        raise ConfigError(f"{word}: leave it out; the adapter's own adapter_config.json names its base model")
    if name in SAVES:
        return [], [f"{name} {_SAVED}"]
    if name == "model.model_handler":
        if value in CLASSES or (mode == "eval" and "lora" in value.lower()):
            return [], [f"{name} has no effect: the files of the model decide its class"]
        raise ConfigError(
            f"{word}: classes of models are not read; leave it out. For adapters write {TARGET}.r=N, and for "
            "the layers of a model expunge inspect lens or probe"
        )
    group = next((group for group in REFUSED_GROUPS if name.startswith(group)), None)
    reason = REFUSED.get(name) or (REFUSED_GROUPS[group] if group else None)
    if reason and value.lower() not in FALSE:
        raise ConfigError(f"{word}: {reason}")
    return ([], []) if reason else None


def _adapter(mode: str, key: str, name: str, value: str, values: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the word for a setting of an adapter. Raises ConfigError if it cannot act."""
    if mode == "eval":
        if key == "path" and value.lower() not in FALSE:
            raise ConfigError(
                f"{name}={value}: write model.model_args.pretrained_model_name_or_path={value}; the folder of an "
                "adapter names its base model"
            )
        return [], [f"{name} has no effect: the folder of an adapter has its settings"]
    if key in LORA_KEYS:
        if key == "target_modules" and value.startswith("["):
            value = re.sub(r"[\"'\s]", "", value)  # the list in the form of the command line
        set_keys = {m[1] for other in values if (m := LORA.fullmatch(other))}
        set_keys |= {other.removeprefix(f"{TARGET}.") for other in values if other.startswith(f"{TARGET}.")}
        others = [f"{k}={default}" for k, default in DEFAULTS.items() if k not in set_keys]
        notes = [f"{TARGET} has {', '.join(others)}; a fork's own file may have other values"] if others else []
        return [f"{TARGET}.{key}={value}"], [f"{name} is now {TARGET}.{key}", *notes]
    if key in LORA_FIXED and value.lower() in LORA_FIXED[key]:
        return [], []
    if key in LORA_FIXED:
        allowed = ", ".join(LORA_FIXED[key])
        raise ConfigError(f"{name}={value}: adapters here have {key}={allowed}; leave it out")
    raise ConfigError(f"{name}={value}: no such setting of adapters{nearest(key, LORA_KEYS)}")


def _switch(mode: str, name: str, value: str, values: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Return the word for the switch of adapters. Its settings are other words of the same command."""
    if value.lower() in FALSE:
        return [], []
    if mode == "eval":
        return [], [f"{name} has no effect: a folder with an adapter is measured with it"]
    if any((match := LORA.fullmatch(key)) and match[1] == "r" for key in values) or f"{TARGET}.r" in values:
        return [], []
    raise ConfigError(f"{name}={value}: write the rank of the adapters, {TARGET}.r=N")
