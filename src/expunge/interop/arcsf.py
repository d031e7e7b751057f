"""arcsf's YAML files (a top config and what it names) as a study file: a grid with the same full, retain and forget
models, called by the same numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from expunge.core.errors import ConfigError, nearest
from expunge.training.config import TrainArgs

METHODS = {"ascent": "GradAscent", "difference": "GradDiff", "idk": "IdkNLL", "kl": "KL"}
# What transformers and peft take where a file says nothing.
TRAINING = {
    "learning_rate": 5e-5,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "weight_decay": 0.0,
}
LORA = {"r": 8, "lora_alpha": 8, "lora_dropout": 0.0, "bias": "none"}
RENAMED = {"warmup_ratio": "warmup_steps", "gradient_checkpointing": "activation_checkpointing"}
NO_USE = (
    *("output_dir", "logging_dir", "logging_strategy", "report_to", "run_name", "overwrite_output_dir", "disable_tqdm"),
    *("save_strategy", "save_steps", "save_total_limit", "save_only_model", "load_best_model_at_end"),
    *("eval_strategy", "evaluation_strategy", "eval_steps", "per_device_eval_batch_size", "eval_accumulation_steps"),
    *("metric_for_best_model", "greater_is_better", "remove_unused_columns", "dataloader_num_workers"),
)
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
    """A study as a plain tree, how many models it makes of each kind, and what has no counterpart."""

    tree: Mapping[str, Any]
    counts: Mapping[str, int]
    notes: tuple[str, ...]

    def to_yaml(self) -> str:
        """The study file, with the counts and the notes as comments."""
        counts = ", ".join(f"{n} {kind}" for kind, n in self.counts.items())
        head = [f"arcsf's top config {self.tree['name']}: {counts}.", *self.notes]
        return "".join(f"# {line}\n" for line in head) + yaml.safe_dump(dict(self.tree), sort_keys=False, width=110)


def import_arcsf(configs: Path, top: str | None = None) -> Imported:
    """A top config under `configs/experiment` as a study. Raises ConfigError naming the file and the key."""
    name, found = _top(configs, top)
    return _Import(configs, name).study(found)


def _top(configs: Path, named: str | None) -> tuple[str, dict[str, Any]]:
    folder = configs / "experiment"
    if not folder.is_dir():
        raise ConfigError(f"import arcsf: {configs} has no folder experiment; give arcsf's configs folder")
    names = sorted(p.stem for p in folder.glob("*.yaml"))
    if named is None and len(names) != 1:
        raise ConfigError(f"--top: missing; {folder} holds {len(names)} top configs{nearest('', names)}")
    name = named or names[0]
    if name not in names:
        raise ConfigError(f"--top: no file {folder / name}.yaml{nearest(name, names)}")
    path = folder / f"{name}.yaml"
    read = _read(path)
    if "train_type" in read:
        raise ConfigError(f"{path}: one job of a top config; import the top config, which has `combinations`")
    _known(path, read, TOP)
    return name, read


def _read(path: Path) -> dict[str, Any]:
    """A YAML file that holds keys."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError:
        near = [p.stem for p in path.parent.glob("*.yaml")]
        raise ConfigError(f"no file {path}{nearest(path.stem, near)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected keys, got {found!r}")
    return found


def _known(path: Path, found: Mapping[str, Any], allowed: Sequence[str], where: str = "") -> None:
    for key in found:
        if key not in allowed:
            raise ConfigError(f"{path}: {where}{key}: unknown key{nearest(str(key), allowed)}")


def _need(path: Path, found: Mapping[str, Any], key: str, kind: type[Any]) -> Any:
    if not isinstance(found.get(key), kind):
        said = "missing" if key not in found else f"should be a {kind.__name__}, got {found[key]!r}"
        raise ConfigError(f"{path}: {key}: {said}")
    return found[key]


@dataclass
class _Import:
    """One import: where the files lie, and the notes so far (each once)."""

    configs: Path
    name: str
    notes: dict[str, None] = field(default_factory=dict)

    def note(self, text: str) -> None:
        self.notes[text] = None

    def study(self, top: Mapping[str, Any]) -> Imported:
        path = self.configs / "experiment" / f"{self.name}.yaml"
        combined = _need(path, top, "combinations", dict)
        _known(path, combined, ("data_config", "train_config", "forget_config", "seed"), "combinations.")
        lists = {key: _need(path, combined, key, list) for key in combined}
        for key in ("data_config", "train_config", "forget_config", "seed"):
            if not lists.get(key):
                raise ConfigError(f"{path}: combinations.{key}: missing or empty")
        which = _need(path, top, "model_config", str)
        model, source = self.model(which)
        axes: dict[str, Any] = {}
        for key in combined:  # in the order of the file, as arcsf numbers them
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
        self.note("There the loss also covers the question; here the answer, unless model.template_args.labels is all.")
        full = len(axes["training"]) * len(axes["seed"])
        retain = full * len(axes["split"])
        counts = {"full": full, "retain": retain, "forget": retain * len(methods)}
        return Imported(tree, counts, tuple(self.notes))

    def method(self, path: Path, which: str, source: str, entry: Any, every: Sequence[Any]) -> dict[str, Any]:
        """One [method, hyperparameters] of forget_config."""
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
        """The model's settings, and its id."""
        path = self.configs / "model" / which / f"{which}.yaml"
        found = _read(path)
        _known(path, found, ("model_id", "model_kwargs", "add_padding_token", "qa_formatter_kwargs"))
        source = str(_need(path, found, "model_id", str))
        args: dict[str, Any] = {"pretrained_model_name_or_path": source}
        for key, value in (found.get("model_kwargs") or {}).items():
            if key == "trust_remote_code":
                if value:
                    self.note(f"{path.name}: trust_remote_code is left off; transformers has these models built in.")
            elif key in ("torch_dtype", "dtype") and value == "auto":
                self.note(f"{path.name}: {key} auto has no counterpart: float32, unless model.model_args.dtype says.")
            elif key in ("torch_dtype", "dtype"):
                args["dtype"] = str(value).removeprefix("torch.")
            elif key in ("device_map", "attn_implementation", "revision"):
                args[key] = value
            else:
                allowed = ("trust_remote_code", "torch_dtype", "device_map", "attn_implementation", "revision")
                raise ConfigError(f"{path}: model_kwargs.{key}: unknown key{nearest(key, allowed)}")
        if found.get("add_padding_token"):
            self.note(f"{path.name}: add_padding_token has no use here: padding never counts, whatever token it is.")
        template = self.template(path, found.get("qa_formatter_kwargs") or {})
        return {"model_args": args, "template_args": template}, source

    def template(self, path: Path, found: Mapping[str, Any]) -> dict[str, Any]:
        """The two templates as the tags around question and answer."""
        _known(path, found, ("question_template", "answer_template"), "qa_formatter_kwargs.")
        sides = {}
        for key, hole in (("question_template", "{question}"), ("answer_template", "{answer}")):
            text = found.get(key, hole)
            if not isinstance(text, str) or text.count(hole) != 1:
                raise ConfigError(f"{path}: qa_formatter_kwargs.{key}: must hold {hole} once, got {text!r}")
            sides[key] = text.split(hole)
        (start, middle), (before, after) = sides["question_template"], sides["answer_template"]
        for bos in BOS:
            if start.startswith(bos):
                start = start.removeprefix(bos)
                self.note(f"{path.name}: the written {bos} is left out; the tokenizer sets its own, there were two.")
        if after:
            self.note(f"{path.name}: {after!r} after the answer is left to the tokenizer's own end token.")
        tags = {"user_start_tag": start, "user_end_tag": middle, "asst_start_tag": before, "asst_end_tag": ""}
        return {"apply_chat_template": False, **tags}

    def hyperparameters(self, which: str, named: str, source: str) -> dict[str, Any]:
        """A hyperparameter file as training settings, all that differs from ours written out."""
        path = self.configs / "model" / which / "hyperparameters" / f"{named}.yaml"
        found = _read(path)
        _known(path, found, ("trainer_kwargs", "peft_kwargs", "early_stopping_kwargs"))
        allowed = [f.name for f in fields(TrainArgs) if f.name not in ("lora", "schedule", "seed", "anchor")]
        out: dict[str, Any] = dict(TRAINING)
        for key, value in (found.get("trainer_kwargs") or {}).items():
            name = RENAMED.get(key, key)
            if key in NO_USE or (key == "logging_steps" and float(value) < 1):
                self.note(f"trainer_kwargs.{key} has no counterpart: models are measured once, when they are done.")
            elif name not in allowed:
                raise ConfigError(f"{path}: trainer_kwargs.{key}: unknown key{nearest(key, [*allowed, *RENAMED])}")
            else:
                out[name] = float(value) if name == "learning_rate" else value
        if found.get("early_stopping_kwargs"):
            out["evaluate"] = self.early_stopping(path, found["early_stopping_kwargs"], out)
        if found.get("peft_kwargs"):
            out["lora"] = self.lora(path, found["peft_kwargs"], source)
        return out

    def early_stopping(self, path: Path, found: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
        """transformers' EarlyStoppingCallback: as many evaluations without a better one, the best model kept."""
        _known(path, found, EARLY, "early_stopping_kwargs.")
        patience = found.get("early_stopping_patience", 1)
        if not isinstance(patience, int) or patience < 1:
            raise ConfigError(
                f"{path}: early_stopping_kwargs.early_stopping_patience: must be a whole number > 0, got {patience!r}"
            )
        steps = (_read(path).get("trainer_kwargs") or {}).get("logging_steps")
        each = float(steps) * float(training["num_train_epochs"]) if steps is not None and float(steps) < 1 else 1.0
        when = {"steps": int(steps)} if steps is not None and float(steps) >= 1 else {"every": each}
        self.note(
            f"{path.name}: early stopping goes by the probability of the retain answers, higher being better, in place "
            "of the evaluation loss."
        )
        if found.get("early_stopping_threshold"):
            self.note("early_stopping_kwargs.early_stopping_threshold has no counterpart: any gain counts.")
        best = {"utility": "retain_Q_A_Prob", "forget": "retain_Q_A_Prob", "floor": 0.0, "target": "high"}
        return {**when, "keep": "best", "patience": patience, "rule": best}

    def lora(self, path: Path, found: Mapping[str, Any], source: str) -> dict[str, Any]:
        """peft's LoraConfig."""
        _known(path, found, (*LORA, "target_modules", "task_type", "inference_mode"), "peft_kwargs.")
        made = {**LORA, **{k: v for k, v in found.items() if k in LORA}}
        modules = found.get("target_modules")
        if modules is None and "llama" in source.lower():
            modules = ["q_proj", "v_proj"]  # what peft takes for a Llama
        if modules is None:
            modules = "all-linear"
            self.note(f"{path.name}: no target_modules are named; all linear modules get adapters.")
        return {**made, "target_modules": modules}

    def data(self, named: str) -> dict[str, Any]:
        """A data config as the keys of a study."""
        path = self.configs / "data" / f"{named}.yaml"
        dataset, found = self.data_file(path)
        if dataset == "tofu":
            _known(path, found, TOFU, "data_kwargs.")
            args = dict(found)
        else:
            _known(path, found, GEN_TOFU, "data_kwargs.")
            level = "relationship" if found.get("type") == "relationship" else found.get("granularity", "question")
            args = {"granularity": level, "forget_fraction": found.get("forget_fraction", 0.0)}
            self.note("gen_tofu's question rows are read from a folder: give data.root=FOLDER.")
            if "retain_subset" in found or "find_forget" in found:
                self.note("retain_subset, find_forget: both parts of the retain rows are always measured here.")
        if _forgets_nothing(found):
            raise ConfigError(f"{path}: forgets nothing, so it serves as full_data_config only")
        return {"benchmark": dataset, "data.args": args}

    def data_file(self, path: Path) -> tuple[str, dict[str, Any]]:
        """The dataset's name and its settings."""
        found = _read(path)
        _known(path, found, ("dataset_name", "data_kwargs"))
        name = found.get("dataset_name")
        if name not in ("tofu", "gen_tofu"):
            raise ConfigError(f"{path}: dataset_name: no dataset {name!r}{nearest(str(name), ('tofu', 'gen_tofu'))}")
        return name, dict(found.get("data_kwargs") or {})

    def full_data(self, named: str) -> None:
        """The full models are trained on all rows here."""
        path = self.configs / "data" / f"{named}.yaml"
        if not _forgets_nothing(self.data_file(path)[1]):
            raise ConfigError(f"{path}: full_data_config must forget nothing; the full model is trained on all rows")

    def launch(self, path: Path, top: Mapping[str, Any]) -> dict[str, Any]:
        """The cluster's settings, and notes on Weights & Biases."""
        if (top.get("wandb_kwargs") or {}).get("use_wandb"):
            self.note(
                "wandb_kwargs: nothing is sent to Weights & Biases, unless train.report_to=[wandb] and "
                "unlearn.report_to=[wandb] are given; results.parquet has the numbers."
            )
        if not top.get("use_bask"):
            return {}
        bask = _need(path, top, "bask", dict)
        _known(path, bask, ("walltime", "gpu_number", "node_number"), "bask.")
        slurm: dict[str, Any] = {"gpus": bask.get("gpu_number", 1), "nodes": bask.get("node_number", 1)}
        if "walltime" in bask:
            slurm["time_min"] = _minutes(path, str(bask["walltime"]))
        env = {name: str(top[key]) for key, names in CACHES.items() if top.get(key) for name in names}
        self.note("bask: its account, qos and modules were written in a template; give launch.slurm.account and setup.")
        return {"launch": {"kind": "slurm", "slurm": {**slurm, **({"env": env} if env else {})}}}


def _forgets_nothing(found: Mapping[str, Any]) -> bool:
    shares = [float(v) for k, v in found.items() if k.endswith("_fraction")]
    return not any(shares)


def _minutes(path: Path, text: str) -> int:
    """Slurm's time limit, such as 0-6:0:0 or 6:00:00, in minutes, rounded up."""
    form = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text.strip())
    if not form:
        raise ConfigError(f"{path}: bask.walltime: must be days-hours:minutes:seconds, got {text!r}")
    days, hours, minutes, seconds = (int(part or 0) for part in form.groups())
    return days * 1440 + hours * 60 + minutes + (seconds > 0)
