"""Import of arcsf's YAML files: a top config and the files that it names become a study file.

The study is a grid with the same full, retain and forget models, numbered as in arcsf.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from expunge.core.errors import ConfigError, nearest
from expunge.core.yaml_text import read_yaml
from expunge.interop.open_unlearning.training_arguments import WITHOUT_EFFECT
from expunge.training.config import TrainArgs

METHODS = {"ascent": "GradAscent", "difference": "GradDiff", "idk": "IdkNLL", "kl": "KL"}
# Defaults of transformers and peft.
TRAINING = {
    "learning_rate": 5e-5,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "weight_decay": 0.0,
}
LORA = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "bias": "none"}
RENAMED = {"warmup_ratio": "warmup_steps", "gradient_checkpointing": "activation_checkpointing"}
MEASURED = "a study measures its models after training"
_SAVED = "an unfinished job resumes by itself, and the last model is kept"
# Arguments of transformers' Trainer without a counterpart in a study, and the reason.
NO_USE = {
    **{key: WITHOUT_EFFECT[key] for key in ("logging_dir", "logging_strategy", "dataloader_num_workers")},
    **{key: WITHOUT_EFFECT[key] for key in ("per_device_eval_batch_size", "remove_unused_columns", "disable_tqdm")},
    **dict.fromkeys(("output_dir", "overwrite_output_dir", "run_name"), "a study names its models and their folders"),
    "report_to": "nothing is sent, unless you set train.report_to and unlearn.report_to",
    **dict.fromkeys(("save_strategy", "save_steps", "save_total_limit", "save_only_model"), _SAVED),
    "load_best_model_at_end": "the last model is kept, with early_stopping_kwargs the best one",
    **dict.fromkeys(("eval_strategy", "evaluation_strategy", "eval_steps", "eval_accumulation_steps"), MEASURED),
    **dict.fromkeys(("metric_for_best_model", "greater_is_better"), MEASURED),
}
EARLY = ("early_stopping_patience", "early_stopping_threshold")
TOP = (
    *("combinations", "model_config", "full_data_config", "use_bask", "bask", "wandb_kwargs"),
    *("model_cache_dir", "data_cache_dir", "wandb_cache_dir"),
)
CACHES = {
    "model_cache_dir": ("HF_HOME",),
    "data_cache_dir": ("HF_DATASETS_CACHE",),
    "wandb_cache_dir": ("WANDB_CACHE_DIR", "WANDB_DATA_DIR"),
}
TOFU = ("granularity", "stratified", "forget_random", "forgotten_author_fraction", "forgotten_fact_fraction")
GEN_TOFU = ("type", "granularity", "forget_fraction", "retain_subset", "find_forget")
BOS = ("<|begin_of_text|>", "<s>")


@dataclass(frozen=True)
class Imported:
    """A study as a plain tree, its number of models of each kind, and notes on settings without a counterpart."""

    tree: Mapping[str, Any]
    counts: Mapping[str, int]
    notes: tuple[str, ...]

    def to_yaml(self) -> str:
        """Return the study file, with the counts and the notes as comments."""
        counts = ", ".join(f"{n} {kind}" for kind, n in self.counts.items())
        head = [f"arcsf's top config {self.tree['name']}: {counts}.", *self.notes]
        return "".join(f"# {line}\n" for line in head) + yaml.safe_dump(dict(self.tree), sort_keys=False, width=110)


def import_arcsf(configs: Path, top: str | None = None) -> Imported:
    """Return a top config under `configs/experiment` as a study. Raises ConfigError naming the file and the key."""
    name, config = _top(configs, top)
    return _Import(configs, name).study(config)


def _top(configs: Path, named: str | None) -> tuple[str, dict[str, Any]]:
    folder = configs / "experiment"
    if not folder.is_dir():
        raise ConfigError(f"import arcsf: {configs} has no folder experiment; name arcsf's configs folder")
    names = sorted(p.stem for p in folder.glob("*.yaml"))
    if named is None and len(names) != 1:
        raise ConfigError(f"--top: missing; {folder} has {len(names)} top configs{nearest('', names)}")
    name = named or names[0]
    if name not in names:
        raise ConfigError(f"--top: no file {folder / name}.yaml{nearest(name, names)}")
    path = folder / f"{name}.yaml"
    config = _read(path)
    if "train_type" in config:
        raise ConfigError(f"{path}: this is one job of a top config; import the top config, which has `combinations`")
    _check_keys(path, config, TOP)
    return name, config


def _read(path: Path) -> dict[str, Any]:
    """Return a YAML file whose top level is a mapping."""
    if not path.exists():
        near = [p.stem for p in path.parent.glob("*.yaml")]
        raise ConfigError(f"no file {path}{nearest(path.stem, near)}")
    return read_yaml(path, "")


def _check_keys(path: Path, config: Mapping[str, Any], allowed: Sequence[str], where: str = "") -> None:
    for key in config:
        if key not in allowed:
            raise ConfigError(f"{path}: {where}{key}: unknown key{nearest(str(key), allowed)}")


def _need(path: Path, config: Mapping[str, Any], key: str, kind: type[Any]) -> Any:
    if not isinstance(config.get(key), kind):
        problem = "missing" if key not in config else f"must be a {kind.__name__}, got {config[key]!r}"
        raise ConfigError(f"{path}: {key}: {problem}")
    return config[key]


@dataclass
class _Import:
    """One import: the folder of the files, and the notes so far, each once."""

    configs: Path
    name: str
    notes: dict[str, None] = field(default_factory=dict)

    def note(self, text: str) -> None:
        self.notes[text] = None

    def study(self, top: Mapping[str, Any]) -> Imported:
        path = self.configs / "experiment" / f"{self.name}.yaml"
        combined = _need(path, top, "combinations", dict)
        _check_keys(path, combined, ("data_config", "train_config", "forget_config", "seed"), "combinations.")
        lists = {key: _need(path, combined, key, list) for key in combined}
        for key in ("data_config", "train_config", "forget_config", "seed"):
            if not lists.get(key):
                raise ConfigError(f"{path}: combinations.{key}: missing or empty")
        which = _need(path, top, "model_config", str)
        model, source = self.model(which)
        axes: dict[str, Any] = {}
        for key in combined:  # arcsf numbers them in the order of the file
            if key == "train_config":
                axes["training"] = {h: {"train": self.hyperparameters(which, h, source)} for h in lists[key]}
            elif key == "seed":
                own = {s: {"seeds.train": [s], "seeds.unlearn": [s], "data.args.seed": s} for s in lists[key]}
                axes["seed"] = {f"seed{s}": own[s] for s in own}
        axes["split"] = {d: self.data(d) for d in lists["data_config"]}
        self.full_data(_need(path, top, "full_data_config", str))
        methods = [self.method(path, which, source, entry, lists["forget_config"]) for entry in lists["forget_config"]]
        tree = {
            "name": self.name,
            "model": model,
            "eval": {"truth_ratio": "arithmetic"},
            "methods": methods,
            "grid": axes,
            "grid_names": "numbers",
            **self.launch(path, top),
        }
        self.note(
            "arcsf's loss covers question and answer; here only the answer, unless model.template_args.labels=all."
        )
        full = len(axes["training"]) * len(axes["seed"])
        retain = full * len(axes["split"])
        counts = {"full": full, "retain": retain, "forget": retain * len(methods)}
        return Imported(tree, counts, tuple(self.notes))

    def method(self, path: Path, which: str, source: str, entry: Any, every: Sequence[Any]) -> dict[str, Any]:
        """Return one [method, hyperparameters] of forget_config."""
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(e, str) for e in entry)):
            raise ConfigError(f"{path}: combinations.forget_config: expected [method, hyperparameters], got {entry!r}")
        method, named = entry
        if method not in METHODS:
            raise ConfigError(f"{path}: combinations.forget_config: no method {method!r}{nearest(method, METHODS)}")
        alone = sum(e[0] == method for e in every if isinstance(e, list) and e) == 1
        return {
            "trainer": METHODS[method],
            "label": method if alone else f"{method}-{named}",
            "args": self.hyperparameters(which, named, source),
        }

    def model(self, which: str) -> tuple[dict[str, Any], str]:
        """Return the model's settings, and its id."""
        path = self.configs / "model" / which / f"{which}.yaml"
        config = _read(path)
        _check_keys(path, config, ("model_id", "model_kwargs", "add_padding_token", "qa_formatter_kwargs"))
        source = str(_need(path, config, "model_id", str))
        args: dict[str, Any] = {"pretrained_model_name_or_path": source}
        for key, value in (config.get("model_kwargs") or {}).items():
            if key == "trust_remote_code":
                if value:
                    self.note(f"{path.name}: trust_remote_code stays off; transformers includes these models.")
            elif key in ("torch_dtype", "dtype") and value == "auto":
                self.note(
                    f"{path.name}: {key}=auto has no counterpart: float32, unless you set model.model_args.dtype."
                )
            elif key in ("torch_dtype", "dtype"):
                args["dtype"] = str(value).removeprefix("torch.")
            elif key in ("device_map", "attn_implementation", "revision"):
                args[key] = value
            else:
                allowed = ("trust_remote_code", "torch_dtype", "device_map", "attn_implementation", "revision")
                raise ConfigError(f"{path}: model_kwargs.{key}: unknown key{nearest(key, allowed)}")
        if config.get("add_padding_token"):
            self.note(f"{path.name}: add_padding_token has no effect: padding never counts.")
        template = self.template(path, config.get("qa_formatter_kwargs") or {})
        return {"model_args": args, "template_args": template}, source

    def template(self, path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the two templates as the tags around question and answer."""
        _check_keys(path, config, ("question_template", "answer_template"), "qa_formatter_kwargs.")
        sides = {}
        for key, hole in (("question_template", "{question}"), ("answer_template", "{answer}")):
            text = config.get(key, hole)
            if not isinstance(text, str) or text.count(hole) != 1:
                raise ConfigError(f"{path}: qa_formatter_kwargs.{key}: must contain {hole} once, got {text!r}")
            sides[key] = text.split(hole)
        (start, middle), (before, after) = sides["question_template"], sides["answer_template"]
        for bos in BOS:
            if start.startswith(bos):
                start = start.removeprefix(bos)
                self.note(f"{path.name}: {bos} is removed from the template; the tokenizer adds its own.")
        if after:
            self.note(f"{path.name}: {after!r} after the answer is replaced by the end token of the tokenizer.")
        tags = {"user_start_tag": start, "user_end_tag": middle, "asst_start_tag": before, "asst_end_tag": ""}
        return {"apply_chat_template": False, **tags}

    def hyperparameters(self, which: str, named: str, source: str) -> dict[str, Any]:
        """Return a hyperparameter file as training settings, with every value that differs from our defaults."""
        path = self.configs / "model" / which / "hyperparameters" / f"{named}.yaml"
        config = _read(path)
        _check_keys(path, config, ("trainer_kwargs", "peft_kwargs", "early_stopping_kwargs"))
        allowed = [f.name for f in fields(TrainArgs) if f.name not in ("lora", "schedule", "seed", "anchor")]
        out: dict[str, Any] = dict(TRAINING)
        for key, value in (config.get("trainer_kwargs") or {}).items():
            name = RENAMED.get(key, key)
            if key in NO_USE:
                self.note(f"trainer_kwargs.{key} has no counterpart: {NO_USE[key]}.")
            elif name not in allowed:
                raise ConfigError(f"{path}: trainer_kwargs.{key}: unknown key{nearest(key, [*allowed, *RENAMED])}")
            else:
                out[name] = float(value) if name == "learning_rate" else value
        if config.get("early_stopping_kwargs"):
            out["evaluate"] = self.early_stopping(path, config["early_stopping_kwargs"], out)
        if config.get("peft_kwargs"):
            out["lora"] = self.lora(path, config["peft_kwargs"], source)
        return out

    def early_stopping(self, path: Path, config: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings that match transformers' EarlyStoppingCallback and keep the best model."""
        _check_keys(path, config, EARLY, "early_stopping_kwargs.")
        patience = config.get("early_stopping_patience", 1)
        if not isinstance(patience, int) or patience < 1:
            raise ConfigError(
                f"{path}: early_stopping_kwargs.early_stopping_patience: must be a whole number > 0, got {patience!r}"
            )
        steps = (_read(path).get("trainer_kwargs") or {}).get("logging_steps")
        each = float(steps) * float(training["num_train_epochs"]) if steps is not None and float(steps) < 1 else 1.0
        when = {"steps": int(steps)} if steps is not None and float(steps) >= 1 else {"every": each}
        self.note(
            f"{path.name}: early stopping reads the probability of the retain answers (higher is better), not the "
            "evaluation loss."
        )
        if config.get("early_stopping_threshold"):
            self.note("early_stopping_kwargs.early_stopping_threshold has no counterpart: every improvement counts.")
        best = {"utility": "retain_Q_A_Prob", "forget": "retain_Q_A_Prob", "floor": 0.0, "target": "high"}
        return {**when, "keep": "best", "patience": patience, "rule": best}

    def lora(self, path: Path, config: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Return the settings of peft's LoraConfig."""
        _check_keys(path, config, (*LORA, "target_modules", "task_type", "inference_mode"), "peft_kwargs.")
        lora = {**LORA, **{k: v for k, v in config.items() if k in LORA}}
        modules = config.get("target_modules")
        if modules is None and "llama" in source.lower():
            modules = ["q_proj", "v_proj"]  # peft's default for Llama
        if modules is None:
            modules = "all-linear"
            self.note(f"{path.name}: no target_modules; all linear modules get adapters.")
        return {**lora, "target_modules": modules}

    def data(self, named: str) -> dict[str, Any]:
        """Return a data config as the keys of a study."""
        path = self.configs / "data" / f"{named}.yaml"
        dataset, config = self.data_file(path)
        if dataset == "tofu":
            _check_keys(path, config, TOFU, "data_kwargs.")
            args = {**config, "compat": "arcsf"}
        else:
            _check_keys(path, config, GEN_TOFU, "data_kwargs.")
            level = "relationship" if config.get("type") == "relationship" else config.get("granularity", "question")
            args = {"granularity": level, "forget_fraction": config.get("forget_fraction", 0.0), "compat": "arcsf"}
            self.note("gen_tofu is read from arcsf's folder data/gen_tofu: set data.root=FOLDER.")
            if "retain_subset" in config or "find_forget" in config:
                self.note("retain_subset, find_forget: no effect; both parts of the retain rows are always measured.")
        if _forgets_nothing(config):
            raise ConfigError(f"{path}: forgets nothing; allowed only as full_data_config")
        return {"benchmark": dataset, "data.args": args}

    def data_file(self, path: Path) -> tuple[str, dict[str, Any]]:
        """Return the dataset's name and its settings."""
        config = _read(path)
        _check_keys(path, config, ("dataset_name", "data_kwargs"))
        name = config.get("dataset_name")
        if name not in ("tofu", "gen_tofu"):
            raise ConfigError(f"{path}: dataset_name: no dataset {name!r}{nearest(str(name), ('tofu', 'gen_tofu'))}")
        return name, dict(config.get("data_kwargs") or {})

    def full_data(self, named: str) -> None:
        """Raise ConfigError if the full data config forgets rows. Full models are trained on all rows."""
        path = self.configs / "data" / f"{named}.yaml"
        if not _forgets_nothing(self.data_file(path)[1]):
            raise ConfigError(f"{path}: full_data_config must forget nothing; the full model is trained on all rows")

    def launch(self, path: Path, top: Mapping[str, Any]) -> dict[str, Any]:
        """Return the cluster's settings, and notes on Weights & Biases."""
        if (top.get("wandb_kwargs") or {}).get("use_wandb"):
            self.note(
                "wandb_kwargs: nothing is sent to Weights & Biases, unless you set train.report_to=[wandb] and "
                "unlearn.report_to=[wandb]; results.parquet has the numbers."
            )
        if not top.get("use_bask"):
            return {}
        bask = _need(path, top, "bask", dict)
        _check_keys(path, bask, ("walltime", "gpu_number", "node_number"), "bask.")
        slurm: dict[str, Any] = {"gpus": bask.get("gpu_number", 1), "nodes": bask.get("node_number", 1)}
        if "walltime" in bask:
            slurm["time_min"] = _minutes(path, str(bask["walltime"]))
        env = {name: str(top[key]) for key, names in CACHES.items() if top.get(key) for name in names}
        self.note("bask: arcsf has account, qos and modules in a template; set launch.slurm.account and .setup.")
        return {"launch": {"kind": "slurm", "slurm": {**slurm, **({"env": env} if env else {})}}}


def _forgets_nothing(config: Mapping[str, Any]) -> bool:
    fractions = [float(v) for k, v in config.items() if k.endswith("_fraction")]
    return not any(fractions)


def _minutes(path: Path, text: str) -> int:
    """Return Slurm's time limit, such as 0-6:0:0 or 6:00:00, in minutes, rounded up."""
    form = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text.strip())
    if not form:
        raise ConfigError(f"{path}: bask.walltime: must be days-hours:minutes:seconds, got {text!r}")
    days, hours, minutes, seconds = (int(part or 0) for part in form.groups())
    return days * 1440 + hours * 60 + minutes + (seconds > 0)
