"""Import of a fork of OpenUnlearning: an experiment of its configs folder becomes an experiment file of ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from expunge.core.decode import below_key, leaves, merge
from expunge.core.errors import ConfigError, nearest
from expunge.core.yaml_text import read_yaml
from expunge.interop.open_unlearning.datasets import BENCHMARKS, DATASETS
from expunge.interop.open_unlearning.fork_files import (
    MODES,
    composed,
    configs_of,
    experiment_tree,
    experiments,
    overrides,
    read_file,
)
from expunge.interop.open_unlearning.suite_files import Suite, collator_notes, one_length
from expunge.interop.open_unlearning.words import translate, without_effect
from expunge.models.options import with_options

WHOLE_REFERENCE = re.compile(r"\$\{[^{}]*\}")
REFERENCE = re.compile(r"\$\{([\w.-]+)\}")
SIDES = {"unlearn": "data/datasets@data.forget", "train": "data/datasets@data.train"}
HANDLERS = {"FinetuneTrainer": "finetune"}
DROPPED = ("mode", "task_name", "trainer.args.report_to")  # the command, the user and the package's log have these
# Needs a package of its own, and has the same result up to rounding.
ATTENTION, FLASH = "model.model_args.attn_implementation", "flash_attention_2"
FORMS = "Some formulas follow the papers; profile=openunlearning gives OpenUnlearning's."
METHOD_ARGS = "trainer.method_args."
# Texts of a template that a model has only if its file has them.
TEXTS = tuple(f"template_args.{name}" for name in ("system_prompt", "system_prompt_with_special_tokens", "date_string"))
SUITES = (*BENCHMARKS, "lm_eval")
# Keys that name data of OpenUnlearning's benchmarks, and the benchmarks here that refuse them.
SPLITS = ("forget_split", "retain_split", "holdout_split", "data_split")
WITHOUT_SPLITS: Mapping[str, tuple[str, ...]] = {
    "custom": (*SPLITS, "question_key"), "lm_eval": SPLITS, "muse": ("holdout_split",), "tofu": ("data_split",),
    "wmdp": ("holdout_split",),
}  # fmt: skip


@dataclass(frozen=True)
class Known:
    """The names that exist here.

    methods: each method with its settings. is_key: whether a command has a dotted key. metrics: the names of metrics.
    models: the shipped models' settings.
    """

    methods: Mapping[str, frozenset[str]]
    is_key: Callable[[str, str], bool]
    metrics: frozenset[str] = frozenset()
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class ImportedExperiment:
    """One experiment: its name, its command, its settings, and the settings that cannot be carried, with reasons."""

    name: str
    mode: str
    tree: Mapping[str, Any]
    notes: tuple[str, ...]

    def to_yaml(self) -> str:
        """Return the experiment file, with the notes as comments."""
        head = [f"OpenUnlearning's experiment {self.name}, for `expunge {self.mode}`.", FORMS, *self.notes]
        return "".join(f"# {line}\n" for line in head) + yaml.safe_dump(dict(self.tree), sort_keys=False, width=110)


def import_experiment(folder: Path, name: str, known: Known) -> ImportedExperiment:
    """Return an experiment of a fork, with the settings of each of its methods and models. Raises ConfigError."""
    present = experiments(folder)
    name = name.removesuffix(".yaml")
    if name not in present:
        raise ConfigError(f"--experiment: no experiment named {name!r}{nearest(name, present)}")
    configs = configs_of(folder)
    top = configs / f"{MODES[name.split('/')[0]]}.yaml"
    below = overrides(read_yaml(top, "").get("defaults")) if top.is_file() else {}
    own, body = experiment_tree(present, name, ())
    groups = {key: value for key, value in {**below, **own}.items() if value is not None}
    return _Carried(configs, name, groups, body, known).result()


@dataclass
class _Carried:
    """The settings of one experiment while they are carried over, as words."""

    configs: Path
    name: str
    groups: Mapping[str, str]
    body: Mapping[str, Any]
    known: Known
    notes: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)  # variables of the fork that a setting has referred to

    @property
    def mode(self) -> str:
        return MODES[self.name.split("/")[0]]

    def result(self) -> ImportedExperiment:
        """Return the experiment: its own settings, and those of each method and model of the fork."""
        out: dict[str, Any] = {"benchmark": self.benchmark}
        model = self.groups.get("model")
        models, adapters = self._models(model)
        if model:
            out["defaults"] = [{"override /model": model}]
        skipped = ("hydra", "trainer") if self.mode == "eval" else ("hydra",)
        body = merge(merge(self._suite(), self._datasets()), {k: v for k, v in self.body.items() if k not in skipped})
        body = self._with_one_length(body)
        if "hydra" in self.body or "hydra/sweeper" in self.groups:
            self.notes.append("not carried: hydra: a search is the key `sweep` of a study, or --multirun")
        if self.mode != "eval":
            self.notes += collator_notes(self.configs, self.groups.get("collator", ""))
            self._methods(out, body)
            for key, value in adapters.items():
                _set_key(out, key, value)
        sets = [f"{key}={value}" for key, value in self.groups.items() if "@" in key and value in DATASETS]
        own = self._carry(body, [f"trainer={self.trainer}"], self._values(self._file_of(self.trainer)), sets=sets)
        for key, value in own.items():
            if self._is_setting(self.handler, key):
                _set_key(out, key, value)
        if self.mode == "train" and self.benchmark == "custom":
            out["train_split"] = "forget"  # the rows of forget=FILE
        if models:
            out["models"] = models
        task = self.body.get("task_name")
        if isinstance(task, str) and task != "???":
            out["task_name"] = self._resolved(task)
        return ImportedExperiment(self.name, self.mode, out, tuple(dict.fromkeys(self.notes)))

    @cached_property
    def trainer(self) -> str:
        """The name of the trainer's file."""
        return "" if self.mode == "eval" else self.groups.get("trainer", "finetune")

    @cached_property
    def handler(self) -> str:
        """The method of the experiment."""
        return self._own_handler or _handler(self._file_of(self.trainer)["trainer"])

    @property
    def _own_handler(self) -> str | None:
        """The method that the experiment's own file sets, in place of its trainer's."""
        own = (self.body.get("trainer") or {}).get("handler")
        return HANDLERS.get(str(own), str(own)) if own else None

    @cached_property
    def benchmark(self) -> str:
        """The benchmark whose data sets and metrics the experiment has; `custom` for data of the fork's own."""
        name, suite = self.suite.name, self.suite.kind
        sets = {key: name for key, name in self.groups.items() if key.startswith("data/datasets@")}
        own = [name for name in sets.values() if name not in DATASETS]
        unnamed = self.mode in SIDES and SIDES[self.mode] not in sets
        if own or unnamed or suite not in SUITES:
            files = "forget=FILE and retain=FILE" if self.mode == "unlearn" else "forget=FILE"
            names = [*own, *([f"eval={name}"] if suite not in SUITES else [])] or ["the data"]
            self.notes.append(
                f"not carried: {', '.join(dict.fromkeys(names))}: of the fork's own; name your rows by {files}"
            )
            return "custom"
        if unknown := self.suite.unknown():
            self.notes.append(f"not carried: metrics {', '.join(unknown)}: no metrics here; write them in a plugin")
        corpus = sets.get("data/datasets@data.forget", "").startswith("WMDP")
        return "wmdp" if suite == "lm_eval" and (corpus or "wmdp" in self.name) else suite

    @cached_property
    def suite(self) -> Suite:
        """The files of the experiment's suite of metrics."""
        return Suite(self.configs, self.groups.get("eval", "tofu"), self.known.metrics)

    def _file_of(self, trainer: str) -> dict[str, Any]:
        return self._group_file("trainer", trainer) if trainer else {"trainer": {}}

    def _group_file(self, group: str, name: str) -> dict[str, Any]:
        """Return the settings of a file of a group, with a note on its settings outside the group."""
        tree = composed(self.configs, group, name)
        if others := [key for key, _ in leaves(tree) if not key.startswith(f"{group}.")]:
            self.notes.append(
                f"not carried: {group}={name}: {', '.join(others)}: outside {group}; write them into the experiment"
            )
        return {group: tree.get(group) or {}}

    def _datasets(self) -> dict[str, Any]:
        """Return the fork's files of the selected data sets, as part of the key `data`."""
        out: dict[str, Any] = {}
        top = self.configs / "data" / f"{self.groups.get('data')}.yaml"
        if self.mode != "eval" and top.is_file():
            out = {"data": read_file(top)[1]}
        for group, name in self.groups.items():
            side = group.partition("@data.")[2]
            path = self.configs / "data" / "datasets" / f"{name}.yaml"
            if side and name in DATASETS and path.is_file():
                out = merge(out, {"data": {side: read_yaml(path, "")}})
        return out

    def _methods(self, out: dict[str, Any], body: Mapping[str, Any]) -> None:
        """Add the trainer's settings that all methods share, and under `trainers` those of each method."""
        own: dict[str, dict[str, Any]] = {}
        handlers: dict[str, str] = {}
        method_args = (body.get("trainer") or {}).get("method_args") or {}  # count for every method that has them
        unknown = []
        for path in sorted((self.configs / "trainer").glob("*.yaml")):
            tree = self._file_of(path.stem)
            handler = _handler(tree["trainer"])
            tree["trainer"].pop("handler", None)
            method = path.stem if path.stem in self.known.methods else handler
            if handler not in self.known.methods:
                unknown.append(path.stem)
            elif self.mode == "unlearn" or path.stem == self.trainer:
                own_args = {k: v for k, v in method_args.items() if k in self.known.methods[method]}
                tree = merge(tree, {"trainer": {"method_args": own_args}})
                words = self._carry(tree, [f"trainer={method}"], self._values(body))
                own[path.stem] = {key: value for key, value in words.items() if self._is_setting(method, key)}
                handlers[path.stem] = method
        if self.handler not in self.known.methods:
            self.notes.append(
                f"trainer={self.handler}: a class of the fork; write it as a method in a plugin "
                "(see examples/own_loss.py)"
            )
        if others := [name for name in unknown if name != self.trainer]:
            self.notes.append(f"not carried: trainer={', '.join(others)}: classes of the fork")
        first = next(iter(own.values()), {})
        shared = {k: v for k, v in first.items() if all(k in each and each[k] == v for each in own.values())}
        shared = {k: v for k, v in shared.items() if not k.startswith(METHOD_ARGS)}
        named = self.trainer in own and not self._own_handler
        _set_key(out, "trainer.handler", self.trainer if named else self.handler)
        for key, value in {**shared, "trainer.args.whole_steps": True}.items():
            _set_key(out, key, value)
        if any("trainer.args.evaluate.every" in each for each in own.values()):
            _set_key(out, "trainer.args.evaluate.panel", "full")
        for name, each in own.items():
            if handlers[name] != name:  # a further file of settings of one method
                _set_key(out.setdefault("trainers", {}), f"{name}.handler", handlers[name])
            for key, value in each.items():
                if key not in shared:
                    _set_key(out.setdefault("trainers", {}).setdefault(name, {}), key.removeprefix("trainer."), value)

    def _models(self, choice: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the settings of each model of the fork that differ from the shipped model of this name.

        The second value is the settings of the selected model's adapters, which are settings of the training.
        """
        out: dict[str, Any] = {}
        adapters: dict[str, Any] = {}
        adapted = []
        for path in sorted((self.configs / "model").glob("*.yaml")):
            try:
                tree = self._group_file("model", path.stem)
            except ConfigError as error:
                if path.stem == choice:
                    raise
                self.notes.append(f"not carried: model={path.stem}: {error}")
                continue
            known = dict(leaves(self.known.models.get(path.stem, {})))
            carried = self._carry(tree, [], {}, quiet=path.stem != choice)
            lora = {key: value for key, value in carried.items() if not key.startswith("model.")}
            if lora and self.mode != "eval" and path.stem != choice:
                adapted.append(path.stem)
                continue
            own = {key.removeprefix("model."): value for key, value in carried.items() if key not in lora}
            absent = {key: None for key in TEXTS if key in known and key not in own}
            for key, value in {**own, **absent}.items():
                if key not in known or known[key] != value:
                    _set_key(out.setdefault(path.stem, {}), key, value)
            if path.stem == choice:
                out.setdefault(choice, {})
                adapters = lora
        if adapted:
            self.notes.append(f"not carried: adapters of model={', '.join(adapted)}; write trainer.args.lora.r=N")
        return {name: own for name, own in out.items() if own or name not in self.known.models}, adapters

    @cached_property
    def variables(self) -> dict[str, Any]:
        """The keys of the experiment that are no settings, which settings can refer to, with their values."""
        return {key: value for key, value in leaves(self.body) if not self._is_word(key, value)}

    def _is_word(self, key: str, value: Any) -> bool:
        if key in WITHOUT_SPLITS.get(self.benchmark, ()):
            return False
        try:
            words = translate([f"{key}={_text(value)}"], self.mode, context=[f"experiment={self.name}"])[0]
        except ConfigError:
            return True
        return all(self.known.is_key(self.mode, word.partition("=")[0].partition(".")[0]) for word in words)

    def _values(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings by key, with the values of variables.

        References to other settings, which are carried themselves, and values that the user must give are left out.
        """
        values = {key: self._resolved(value) for key, value in _leaves(tree)}
        return {key: value for key, value in values.items() if not _refers(value)}

    def _resolved(self, value: Any, depth: int = 9) -> Any:
        """Return a value with the values of variables in place of references to them."""
        names = [name for name in REFERENCE.findall(value) if name in self.variables] if isinstance(value, str) else []
        if not names or not depth:
            return value
        self.used.update(names)
        if value == f"${{{names[0]}}}":
            return self._resolved(self.variables[names[0]], depth - 1)
        text = value
        for name in names:
            text = text.replace(f"${{{name}}}", _text(self.variables[name]))
        return self._resolved(text, depth - 1)

    def _suite(self) -> dict[str, Any]:
        """Return the settings of the fork's suite that differ from OpenUnlearning's, and its metrics."""
        if "eval" not in self.groups or self.benchmark == "custom":
            return {}
        own = self.suite.own_settings()
        splits = own.get("eval", {}).get(self.suite.kind, {})
        if "holdout_split" in self.body or _refers(splits.get("holdout_split")):
            splits.pop("holdout_split", None)
        changed, notes = self.suite.changed()
        self.notes += notes
        return {**merge(own, changed), **self.suite.selection()}

    def _with_one_length(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the settings with the same length for each data set: one length counts for all of them here."""
        if self.benchmark == "custom":
            return body
        keys = {key: value for key, value in leaves({"data": body.get("data") or {}}) if key.endswith(".max_length")}
        trained = {key.split(".")[2]: value for key, value in keys.items() if isinstance(value, int)}
        length, notes = one_length(trained, self.suite.lengths())
        self.notes += notes
        if not trained:
            other = length not in (None, 512)
            return merge(below_key("model.template_args.max_length", length), body) if other else body
        for key, value in keys.items():
            body = merge(body, below_key(key, length if isinstance(value, int) else value))
        return body

    def _is_setting(self, method: str, key: str) -> bool:
        """Return whether a method has a setting, with a note if not. True for every other key."""
        if not key.startswith(METHOD_ARGS) or method not in self.known.methods:
            return True
        name = key.removeprefix(METHOD_ARGS).partition(".")[0]
        if name not in self.known.methods[method]:
            self.notes.append(f"not carried: {key}: {method} has no setting of this name here")
        return name in self.known.methods[method]

    def _carry(
        self, tree: Mapping[str, Any], context: Sequence[str], below: Mapping[str, Any],
        *, sets: Sequence[str] = (), quiet: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """Return the settings under our names, by key, and note the settings that cannot be carried.

        context: further words of the command. below: settings that these are laid over. sets: words that choose data
        sets. quiet: note nothing.
        """
        values = self._values(tree)
        absent = {k: values.pop(k) for k in WITHOUT_SPLITS.get(self.benchmark, ()) if k in values}
        if listed := [f"{key}={_text(value)}" for key, value in absent.items() if value is not None]:
            self.notes.append(f"not carried: {', '.join(listed)}: the benchmark {self.benchmark} has no such setting")
        values = {key: value for key, value in values.items() if key not in DROPPED and key not in self.used}
        if values.get(ATTENTION) == FLASH:
            del values[ATTENTION]
            self.notes.append(f"not carried: {ATTENTION}={FLASH}: transformers chooses; it differs by rounding")
        if self.benchmark == "wmdp":
            tasks = values.pop("eval.lm_eval.tasks", None)  # the benchmark has the questions of wmdp and mmlu
            others = [t for t in tasks if not str(t).startswith(("wmdp", "mmlu"))] if isinstance(tasks, list) else []
            values |= {"eval.lm_eval.tasks": others} if others else {}
        if self.benchmark == "custom":  # one note names the data and the metrics of the fork
            keep = ("data.anchor",)
            values = {k: v for k, v in values.items() if k in keep or not k.startswith(("data.", "eval.", "eval/"))}
        if not quiet:
            self.notes += self._unresolved_notes(tree)
        above = [f"experiment={self.name.split('/')[0]}/{self.benchmark}/default", *context]
        above += [f"{key}={_text(value)}" for key, value in below.items()]
        words = [*sets, *(f"{key}={_text(value)}" for key, value in values.items())]
        out: dict[str, Any] = {}
        for word in words:
            others = [other for other in words if other != word]
            try:
                for new in translate([word], self.mode, context=[*above, *others])[0]:
                    key, _, text = new.partition("=")
                    value = values[key] if key in values and _text(values[key]) == text else yaml.safe_load(text)
                    self._check(key, value)
                    if key in SPLITS and out.get(key, value) != value:
                        self.notes.append(f"not carried: {key}={out[key]}: {word} is another value of this setting")
                    out[key] = _as_ours(key, value)
            except ConfigError as error:
                if not quiet:
                    self.notes.append(f"not carried: {error}")
        return out

    def _unresolved_notes(self, tree: Mapping[str, Any]) -> list[str]:
        """Return a note for each reference whose value no other setting has: a function, or a setting of training."""
        values = {key: self._resolved(value) for key, value in _leaves(tree)}
        return [
            f"not carried: {key}={value}: write its value into the file"
            for key, value in values.items()
            if _refers(value) and value != "???" and key not in DROPPED and without_effect(key) is None
            if ":" in value or key.startswith(("trainer.args.", METHOD_ARGS))
        ]

    def _check(self, key: str, value: Any) -> None:
        """Raise ConfigError for a key that the command does not have."""
        top = key.partition(".")[0]
        if not self.known.is_key(self.mode, top):
            raise ConfigError(f"{top}{f'={_text(value)}' if key == top else ''}: no setting here")
        if not self.known.is_key(self.mode, key):
            raise ConfigError(f"{key}={_text(value)}: no setting here")
        group, _, name = key.removeprefix("model.").partition(".")
        if key.startswith("model.") and group in ("model_args", "tokenizer_args"):
            args = {"pretrained_model_name_or_path": None, name: value}
            with_options({"model_args": {}, "tokenizer_args": {}, "preset": None, group: args})


def _handler(trainer: Mapping[str, Any]) -> str:
    """Return the method of a trainer's file, by its name here."""
    own = str(trainer.get("handler") or "finetune")
    return HANDLERS.get(own, own)


def _leaves(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in leaves(tree) if key != "trainer.handler" and value != {})


def _refers(value: Any) -> bool:
    """Return whether a value is another key's, which is carried itself, or a value that the user must give."""
    return isinstance(value, str) and (value == "???" or WHOLE_REFERENCE.fullmatch(value) is not None)


def _text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _as_ours(key: str, value: Any) -> Any:
    return "auto" if key == "model.model_args.dtype" and value == "bfloat16" else value


def _set_key(tree: dict[str, Any], key: str, value: Any) -> None:
    *parts, last = key.split(".")
    for part in parts:
        tree = tree.setdefault(part, {})
    tree[last] = value
