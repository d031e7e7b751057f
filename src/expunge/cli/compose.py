"""Hydra composition: YAML and overrides become a plain dict. The only room that imports Hydra.

Defaults live in the frozen dataclasses; their plain values are put into Hydra's store, so that every key is known, a
wrong one is refused with the nearest right name, and no YAML repeats them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

from expunge.cli.vocabulary import translate, with_split
from expunge.core.errors import ConfigError, nearest
from expunge.core.fingerprints import canonical
from expunge.models.config import looks_local
from expunge.study.config import StudyConfig
from expunge.study.single import SingleJob
from expunge.training.config import TrainArgs

CONF = Path(__file__).resolve().parent.parent / "conf"
VARIABLES = "model.template_args.template_kwargs"
STEPS = ("trainer.args", "unlearn", "train")  # where training settings stand, whose `step_args` are the step's own


def study_tree(overrides: Sequence[str]) -> dict[str, Any]:
    """The plain dict of `expunge run|plan study=... key=value ...`; `study` is a shipped name or a YAML file."""
    words = _words(overrides)
    name = next((w.split("=", 1)[1] for w in words if w.startswith("study=")), None)
    if name is None:
        raise ConfigError(f"study: missing; give study=NAME or study=FILE.yaml{nearest('', options('study'))}")
    if name.endswith((".yaml", ".yml")) and name not in options("study"):
        return _study_file(Path(name).expanduser(), [w for w in words if not w.startswith("study=")])
    tree = _compose("run", _with_own_template(words))
    tree.pop("study", None)
    tree.setdefault("name", name)
    return _with_models(tree)


def single_tree(mode: str, overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The plain dict of `expunge train|unlearn|eval ...`, and notes on what was translated or has no effect."""
    words, notes = translate(_words(overrides))
    if mode == "train":
        words, notes = with_split(words, notes)
    tree = _compose(mode, _with_own_template(words))
    tree.pop("experiment", None)
    return tree, notes


SOURCE = "model.model_args.pretrained_model_name_or_path"


def _with_own_template(words: Sequence[str]) -> list[str]:
    """A model folder without `model=NAME` has its own chat template, not the settings of the default model."""
    named = {word.lstrip("+").partition("=")[0]: word.partition("=")[2] for word in words}
    if "model" in named or not looks_local(named.get(SOURCE, "").strip("'\"") or "hub/id"):
        return list(words)
    return [*words, "model=llama-1m"]  # has no template settings; the folder stands in place of its preset


def options(group: str) -> list[str]:
    """The names a group offers: files under conf/<group>, and the methods for `trainer`."""
    folder = CONF / group
    names = [str(p.relative_to(folder).with_suffix("")) for p in sorted(folder.rglob("*.yaml"))]
    if group == "trainer":
        from expunge.methods import registry

        names += [n for s in registry().values() for n in (s.name, *s.aliases)]
    return names


def _words(overrides: Sequence[str]) -> list[str]:
    for word in overrides:
        if "=" not in word and not word.startswith("~"):
            raise ConfigError(f"{word!r}: not of the form key=value")
    # The axes of a grid, what a benchmark or a step takes and stories are checked there, not by the tree of known keys.
    own = (
        "grid.",
        "data.args.",
        "sweep.space.",
        "stories.",
        f"{VARIABLES}.",
        f"{VARIABLES}=",
        *(f"{at}.step_args{end}" for at in STEPS for end in ".="),
    )
    return [f"++{bare}" if (bare := word.lstrip("+")).startswith(own) else word for word in overrides]


def _with_models(tree: dict[str, Any]) -> dict[str, Any]:
    """The names of shipped models on a grid's axis `model`, as the settings they stand for."""
    names = tree["grid"].get("model")
    if not isinstance(names, list):
        return tree
    made: dict[str, Any] = {}
    for name in names:
        if name not in options("model"):
            raise ConfigError(f"grid.model: no model named {name!r}{nearest(str(name), options('model'))}")
        loaded = OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{name}.yaml"), resolve=True)
        empty = {"preset": None, "model_args": {"pretrained_model_name_or_path": None}}
        made[name] = {"model": OmegaConf.to_container(OmegaConf.merge(empty, loaded))}
    return {**tree, "grid": {**tree["grid"], "model": made}}


def _study_file(path: Path, words: Sequence[str]) -> dict[str, Any]:
    """A user's own study file, laid over the defaults; its `defaults` list is not read."""
    if not path.is_file():
        raise ConfigError(f"study: no file {path}")
    try:
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except yaml.YAMLError as error:
        raise ConfigError(f"study: {path} is not YAML: {' '.join(str(error).split())}") from None
    except (OmegaConfBaseException, OSError, ValueError) as error:
        raise ConfigError(f"study: {path}: {_first(error)}") from None
    if not isinstance(loaded, dict):
        raise ConfigError(f"study: {path} holds no keys")
    loaded.pop("defaults", None)
    chosen = [w for w in words if w.startswith("model=")]
    words = [w for w in words if w not in chosen]
    if chosen or isinstance(loaded.get("model"), str):
        chosen = chosen or [f"model={loaded['model']}"]
        loaded.pop("model", None)
    base = {"name": path.stem, **_compose("run", [*chosen, "~study"])}
    known = OmegaConf.create(base)
    OmegaConf.set_struct(known, True)
    slurm = known.launch.slurm
    for own in (
        known.grid,
        known.sweep.space,
        known.data.args,
        known.model.template_args.template_kwargs,
        known.unlearn.step_args,
        known.train.step_args,
        slurm.env,
        slurm.extra,
        slurm.by_kind,
    ):  # keys there are the user's own
        OmegaConf.set_struct(own, False)
    try:
        merged = OmegaConf.merge(known, loaded)
    except OmegaConfBaseException as error:
        key = re.search(r"full_key: (\S+)", str(error))
        if not isinstance(error, ConfigKeyError) or key is None:
            raise ConfigError(f"study: {path}: {_misfit(loaded, base) or _first(error)}") from None
        raise ConfigError(f"study: {path}: {_unknown_key(key.group(1), base)}") from None
    tree: dict[str, Any] = OmegaConf.to_container(merged)  # type: ignore[assignment]
    return _with_models(_override(tree, words))


def _misfit(given: Mapping[Any, Any], base: dict[str, Any], prefix: str = "") -> str | None:
    """The first key whose value is a list where the defaults have a group of keys, or the other way round."""
    for key, value in given.items():
        known = base.get(key)
        if isinstance(value, dict) and isinstance(known, dict):
            if found := _misfit(value, known, f"{prefix}{key}."):
                return found
        elif isinstance(value, dict | list) and isinstance(known, dict | list) and type(value) is not type(known):
            wanted = "a list" if isinstance(known, list) else "a group of keys"
            return f"{prefix}{key}: expected {wanted}, got {value!r}"
    return None


def _override(tree: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    config = OmegaConf.create(tree)
    for word in words:
        try:
            parsed = OverridesParser.create().parse_override(word)
        except HydraException as error:
            raise ConfigError(f"{word!r}: {_first(error)}") from None
        key = parsed.key_or_group
        if not (parsed.is_add() or parsed.is_force_add()) and OmegaConf.select(config, key, default=_ABSENT) is _ABSENT:
            raise ConfigError(_unknown_key(key, tree))
        OmegaConf.update(config, key, parsed.value(), force_add=True)
    return OmegaConf.to_container(config)  # type: ignore[return-value]


_ABSENT = object()


def _check_groups(config_name: str, words: Sequence[str]) -> None:
    """A study has no experiment and no trainer, a single job no study. Raises ConfigError."""
    study = config_name == "run"
    for key in {word.lstrip("+~").partition("=")[0] for word in words} & {"study", "experiment", "trainer"}:
        if study and key != "study":
            raise ConfigError(f"{key}: is for `expunge train`, `unlearn` and `eval`; a study names its `methods`")
        if key == "study" and not study:
            raise ConfigError(f"study: is for `expunge run` and `plan`; `expunge {config_name}` takes experiment=NAME")


def _compose(config_name: str, words: Sequence[str]) -> dict[str, Any]:
    _check_groups(config_name, words)
    _register()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose(config_name, overrides=list(words))
            return OmegaConf.to_container(config, resolve=True, throw_on_missing=True)  # type: ignore[return-value]
    except HydraException as error:
        raise ConfigError(_explain(error, config_name, words)) from None
    except MissingMandatoryValue as error:
        key = re.sub(r".*full_key: (\S+).*", r"\1", " ".join(str(error).split()))
        raise ConfigError(f"{key}: missing; give {key}=...") from None
    except OmegaConfBaseException as error:
        raise ConfigError(_first(error)) from None
    finally:
        GlobalHydra.instance().clear()


def _explain(error: HydraException, config_name: str, words: Sequence[str]) -> str:
    """One line for what Hydra says, with the nearest right name."""
    chain = " ".join(str(e) for e in (error, error.__cause__) if e)
    text = " ".join(chain.split())
    group = re.search(r"Could not find '([^']+)'|In '[^']*': Could not find '([^']+)'", text)
    if group:
        wanted = next(g for g in group.groups() if g)
        parent, _, name = wanted.partition("/")
        return f"{parent}: no {parent} named {name!r}{nearest(name, options(parent))}"
    key = re.search(r"Could not (?:override|append to config) '([^']+)'", text)
    if key:
        chosen = [w for w in words if w.partition("=")[0].lstrip("+") in _GROUPS]
        return _unknown_key(key.group(1), _without_values(config_name, chosen))
    return text


_GROUPS = ("study", "experiment", "model", "trainer")


def _without_values(config_name: str, groups: Sequence[str]) -> dict[str, Any]:
    """The tree that the chosen groups make, before any single value is changed."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose(config_name, overrides=list(groups)))  # type: ignore[return-value]


def _unknown_key(key: str, tree: dict[str, Any]) -> str:
    """One line for a key that is not in the tree: the nearest in the deepest group that is right, else anywhere."""
    here: Any = tree
    right: list[str] = []
    for part in key.split("."):
        if not (isinstance(here, dict) and isinstance(here.get(part), dict)):
            break
        here, right = here[part], [*right, part]
    prefix = ".".join(right)
    names = [f"{prefix}.{k}" if prefix else str(k) for k in here]
    if right or "." not in key:
        return f"{key}: unknown key{nearest(key, names)}"
    return f"{key}: unknown key{nearest(key, _flat(tree))}"


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterable[str]:
    for key, value in tree.items():
        yield prefix + key
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")


def _first(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _register() -> None:
    """Put the dataclasses' defaults into Hydra's store: the study, the single job, and a trainer per method."""
    store = ConfigStore.instance()
    study = _defaults(StudyConfig, name="study")
    study["unlearn"] = canonical(TrainArgs())
    store.store(name="study_defaults", node={k: v for k, v in study.items() if k != "name"})
    single = _defaults(SingleJob, mode="eval", task_name="???")
    for key in ("mode", "trainer"):
        single.pop(key)
    store.store(name="single_defaults", node=single)
    from expunge.methods import registry
    from expunge.methods.objective import objective

    for spec in registry().values():
        chosen = objective(spec.name)
        shared = canonical(chosen.weights)
        if spec.retain_loss_type is None:
            shared = {k: shared[k] for k in ("gamma", "compat")}
        node = {
            "args": canonical(TrainArgs()),
            "method_args": {**canonical(chosen.method), **shared},
        }
        for name in (spec.name, *spec.aliases):
            store.store(group="trainer", name=name, node={"handler": name, **node})


def _defaults(cls: type[Any], **required: Any) -> dict[str, Any]:
    tree: dict[str, Any] = canonical(cls(**required))
    tree["model"]["template_args"] = tree.pop("template_args")
    return tree
