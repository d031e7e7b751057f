"""List studies, experiments, models, methods, metrics, audits and benchmarks: in groups, as a page or as JSON."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from expunge.cli.lists import command_lines, entry_lines, rewrapped, wrapped
from expunge.core.errors import ConfigError, nearest
from expunge.core.plugin_code import declared
from expunge.core.registry import badge
from expunge.core.terminal import say

FILES = {"studies": "study", "experiments": "experiment", "models": "model"}  # lists of shipped files
SCRATCH = "Built from scratch"  # the group of models without an owner
SHORTEST = ("expunge", "run", "study=NAME")
RUN = re.compile(r":?\s+(expunge run study=.*)$", re.MULTILINE)  # the command in the opening comment of a study


def show(what: str, name: str | None, *, as_json: bool) -> int:
    """Print the list, or one entry's page."""
    entries = _entries(what)
    if name is not None:
        key = next((k for k, v in entries.items() if name == k or name in v.get("aliases", ())), None)
        if key is None and what == "metrics" and (number := reported_number(name)) is not None:
            key = number.family
            if not as_json:
                say("\n".join(wrapped(f"the metric {key} {_place(name, number)}", f"{name}: ", "  ")) + "\n")
        if key is None:
            known = [*entries, *(a for e in entries.values() for a in e.get("aliases", ()))]
            raise ConfigError(f"{what}: none named {name!r}{nearest(name, known)}")
        entries = {key: entries[key]}
    if as_json:
        say(json.dumps(entries, indent=1, ensure_ascii=False))
    elif name is not None:
        _page(*next(iter(entries.items())))
    else:
        say("\n".join(_lines(what, entries)))
    return 0


def reported_number(name: str) -> Any:
    """Return the metric of TOFU's suite, whose names all results use, that reports a number; None if there is none."""
    from expunge.benchmarks.metric_suite import tofu_panel

    panel = {number.name: number for number in tofu_panel(holdout=True)}
    return panel.get(name) or panel.get(name.removeprefix("retain_"))


def _place(name: str, number: Any) -> str:
    """Return the source of a number: its rows and answers, or other numbers."""
    if number.parents:
        return f"of {', '.join(number.parents.values())}"
    rows = number.rows if name == number.name else "retain_eval"
    return f"on the rows {rows} ({', '.join(part for parts in number.reads.values() for part in parts)})"


def _entries(what: str) -> dict[str, dict[str, Any]]:
    """Return the entries of a list by name."""
    if what in FILES:
        return _files(FILES[what])
    return {"methods": _methods, "metrics": _metrics, "benchmarks": _benchmarks, "audits": _audits}[what]()


def _files(group: str) -> dict[str, dict[str, Any]]:
    """Return the shipped files of a group: the comment at the top of each, its text, and the words that use it."""
    from expunge.cli.config_files import CONF, whole_files

    out: dict[str, dict[str, Any]] = {}
    for name in whole_files(group):
        text = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8")
        opening = [line for line in text.splitlines() if not line.startswith("# @package")]
        comment = [line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), opening)]
        command = {"study": "run", "model": "run study=NAME"}.get(group, name.split("/")[0])
        command = {"finetune": "train", "semeval": "semeval", "stories": "train"}.get(command, command)
        opening_text, use = _without_command("\n".join(comment))
        about = _about(opening_text) or _source(text)
        kind = name.rpartition("/")[0] if "/" in name else ""
        use = use or f"expunge {command} {group}={name}"
        out[name] = {"about": about, "group": kind or _file_group(group, about, use), "use": use, "page": text}
    return out


def _file_group(kind: str, about: str, use: str) -> str:
    """Return the group of a study by the words that it needs, and of a model by its owner."""
    if kind == "study":
        return "Without further words" if len(use.split()) == len(SHORTEST) else "With your files or your model"
    return about.partition("/")[0] if "/" in about else SCRATCH


def _without_command(comment: str) -> tuple[str, str]:
    """Return an opening comment without the command in it, and the command with all words to type ("" if none)."""
    match = RUN.search(comment)
    if match is None:
        return comment, ""
    return f"{comment[: match.start()].rstrip('.')}.{comment[match.end() :]}", match[1]


def _source(text: str) -> str:
    """Return the model or the benchmark that a file names, or the shape of its model."""
    match = re.search(r"pretrained_model_name_or_path: (\S+)|^benchmark: (\S+)", text, re.MULTILINE)
    if match:
        return match[1] or match[2]
    lines = (" ".join(line.split()) for line in text.splitlines())
    return ", ".join(line for line in lines if not line.startswith("#") and ": " in line)


def _methods() -> dict[str, dict[str, Any]]:
    from expunge.core.fingerprints import canonical
    from expunge.methods import registry
    from expunge.methods.objective import objective

    out: dict[str, dict[str, Any]] = {}
    for name, spec in registry().items():
        loss = objective(name)
        out[name] = {
            "about": _about(spec.page),
            "shape": "loss",
            "paper": spec.paper,
            "checked": badge(spec.fidelity),
            "needs": _needs(canonical(loss.needs)),
            "settings": {**canonical(loss.method), **canonical(loss.weights)},
            "aliases": list(spec.aliases),
            "revision": declared(spec.revision),
            "page": spec.page,
        }
    return out | {
        name: {
            "about": _about(spec.page),
            "shape": shape,
            "paper": spec.paper,
            "checked": badge(spec.fidelity),
            "needs": needs,
            "settings": _defaults(spec.cls),
            "aliases": [],
            "revision": declared(spec.revision),
            "page": spec.page,
        }
        for shape, name, spec, needs in _wrappers_and_edits()
    }


def _about(page: str) -> str:
    """Return the first sentence of a page, without papers, which have their own column."""
    opening = " ".join(page.partition("\n\n")[0].split())
    bare = re.sub(r" \([^()]*arXiv[^()]*\)", "", opening)
    return re.split(r"(?<=\.)(?<!\b[A-Z][a-z]\.)(?<!\bal\.)\s", bare, maxsplit=1)[0]


def _needs(needs: Mapping[str, Any]) -> list[str]:
    """Return the quantities that a loss reads by default, by side, and positions other than the answers'."""
    other = ("_positions", "_sides", "layer")
    sides = [f"{side}: {needs[side]}" for side in needs if needs[side] and not side.endswith(other)]
    if needs["rollout"]:
        sides.append(f"texts sampled for: {', '.join(needs['rollout_sides'])}")
    odd = [f"{k}: {v}" for k, v in needs.items() if k.endswith("_positions") and v != "answer" and needs[k[:-10]]]
    layers = [needs["layer"]] if isinstance(needs["layer"], str) else needs["layer"] or []
    return sides + odd + ([f"layer: {', '.join(layers)}"] if layers else [])


def _defaults(cls: type[Any]) -> dict[str, Any]:
    """Return the defaults of a class's settings: its own, then those of its bases."""
    fields = dataclasses.fields(cls)
    return {
        f.name: _default(f) for f in sorted(fields, key=lambda f: f.name not in vars(cls).get("__annotations__", {}))
    }


def _default(setting: Any) -> Any:
    """Return a setting's default as plain data; "required" if it has none."""
    from expunge.core.fingerprints import canonical

    if setting.default is not dataclasses.MISSING:
        return canonical(setting.default)
    return "required" if setting.default_factory is dataclasses.MISSING else canonical(setting.default_factory())


def _wrappers_and_edits() -> Iterator[tuple[str, str, Any, list[str]]]:
    from expunge.methods.grad_transforms import grad_transform_registry
    from expunge.methods.weight_edits import weight_edit_registry
    from expunge.models.wrapper_api import wrapper_registry

    for name, step in grad_transform_registry().items():
        yield "step", name, step, list(step.needs)
    for name, edit in weight_edit_registry().items():
        yield "edit", name, edit, [f"others: {edit.others}"] if edit.others else []
    for name, rule in wrapper_registry().items():
        yield "wrapper", name, rule, [f"helper: {rule.helper}"] if rule.helper else []


def _metrics() -> dict[str, dict[str, Any]]:
    from expunge.metrics import families

    return {
        name: {
            "about": f.page.splitlines()[0],
            "group": METRIC_GROUPS.get(
                f.compute.__module__.rpartition(".")[2], "Probabilities, choices and aggregates"
            ),
            "paper": f.paper,
            "checked": badge(f.fidelity),
            "range": f.range,
            "higher_is": f.higher_is,
            "revision": declared(f.revision),
            "page": f.page,
        }
        for name, f in families().items()
    }


def _benchmarks() -> dict[str, dict[str, Any]]:
    from expunge.benchmarks import benchmarks

    return {
        name: {"about": spec.about, "group": _benchmark_group(spec), "checked": badge(spec.fidelity), "page": spec.page}
        for name, spec in benchmarks().items()
    }


def _benchmark_group(spec: Any) -> str:
    own = "arXiv" not in spec.about or "no download" in spec.about
    return "Your own rows, and made-up ones" if own else "Published"


def _audits() -> dict[str, dict[str, Any]]:
    from expunge.audits import audit_registry

    return {
        name: {
            "about": _about(spec.page),
            "group": "With or without a control" if spec.alone else "With a control",
            "paper": spec.paper,
            "checked": badge(spec.fidelity),
            "settings": _defaults(spec.cls),
            "revision": declared(spec.revision),
            "page": spec.page,
        }
        for name, spec in audit_registry().items()
    }


TEXTS, ATTACKS = "Generated texts", "Membership attacks"
METRIC_GROUPS = {
    **dict.fromkeys(
        ("answer_content", "fluency", "judgement", "leakage", "rouge", "semantic_similarity", "short_answer"), TEXTS
    ),
    **dict.fromkeys(("attacks", "gradient_attack", "membership", "reference_attacks"), ATTACKS),
    "semeval": "SemEval-2025 Task 4",
}
GROUPS = {
    "loss": "Losses",
    "step": "Gradient transforms (trainer.args.grad_transform=NAME)",
    "edit": "Weight edits",
    "wrapper": "Wrappers (at inference)",
}


def _lines(what: str, entries: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of a list: a heading per group, then each name, its first sentence and its badge."""
    groups: dict[str, list[str]] = {}
    for name, entry in entries.items():
        groups.setdefault(str(entry.get("group") or entry.get("shape", "")), []).append(name)
    if scratch := groups.pop(SCRATCH, []):
        groups[SCRATCH] = scratch  # below the models of the hub, wherever the alphabet puts them
    for group, names in groups.items():
        if group:
            yield f"\n{GROUPS.get(group, group)}" if group != next(iter(groups)) else GROUPS.get(group, group)
        for name in names:
            checked = f" [{entries[name]['checked']}]" if entries[name].get("checked") else ""
            yield from entry_lines(_names(name, entries[name]), f"{entries[name]['about']}{checked}")
            use = str(entries[name].get("use", ""))
            if what == "studies" and len(use.split()) > len(SHORTEST):
                yield from command_lines(use, " " * 6)
    yield ""
    yield f"expunge list {what} NAME shows one."


def _names(name: str, entry: Mapping[str, Any]) -> str:
    aliases = ", ".join(entry.get("aliases", ()))
    return f"{name} ({aliases})" if aliases else name


def _page(name: str, entry: Mapping[str, Any]) -> None:
    say(name)
    is_file = "use" in entry
    say(entry["page"].rstrip() if is_file else rewrapped(inspect.cleandoc(entry["page"])))
    for key in ("shape", "paper", "checked", "settings", "needs", "aliases", "metrics", "use"):
        if entry.get(key):
            value = entry[key] if not isinstance(entry[key], str) else [entry[key]]
            written = value.items() if isinstance(value, dict) else ()
            text = ", ".join(f"{k}={_yaml(v)}" for k, v in written) or ", ".join(value)
            say("\n".join(wrapped(text, f"{key}: ", "  ")))


def _yaml(value: Any) -> str:
    """Return a setting as a user types it: null, true, text without quotes."""
    return value if isinstance(value, str) else json.dumps(value)


def names_of(what: str) -> list[str]:
    """Return the names of a list, with other names of the same entry."""
    return [name for key, entry in _entries(what).items() for name in (key, *entry.get("aliases", ()))]
