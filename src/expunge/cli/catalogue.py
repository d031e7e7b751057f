"""List methods, metric families, benchmarks and audits as a table, a page or JSON."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from expunge.core.errors import ConfigError, nearest


def show(what: str, name: str | None, *, as_json: bool) -> int:
    """Print the list, or one entry's page."""
    entries = {"methods": _methods, "metrics": _metrics, "benchmarks": _benchmarks, "audits": _audits}[what]()
    if name is not None:
        key = next((k for k, v in entries.items() if name == k or name in v.get("aliases", ())), None)
        if key is None:
            known = [*entries, *(a for e in entries.values() for a in e.get("aliases", ()))]
            raise ConfigError(f"{what}: none named {name!r}{nearest(name, known)}")
        entries = {key: entries[key]}
    if as_json:
        print(json.dumps(entries, indent=1, ensure_ascii=False))
    elif name is not None:
        _page(*next(iter(entries.items())))
    else:
        _table(entries)
    return 0


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
            "needs": _needs(canonical(loss.needs)),
            "settings": {**canonical(loss.method), **canonical(loss.weights)},
            "aliases": list(spec.aliases),
            "revision": spec.revision,
            "page": spec.page,
        }
    return out | {
        name: {
            "about": _about(spec.page),
            "shape": shape,
            "paper": spec.paper,
            "needs": needs,
            "settings": {f.name: _default(f) for f in dataclasses.fields(spec.cls)},
            "aliases": [],
            "revision": spec.revision,
            "page": spec.page,
        }
        for shape, name, spec, needs in _wrappers_and_edits()
    }


def _about(page: str) -> str:
    """Return the first sentence of a page, without papers, which have their own column."""
    opening = " ".join(page.partition("\n\n")[0].split())
    bare = re.sub(r" \([^()]*arXiv[^()]*\)", "", opening)
    return re.split(r"(?<=\.)\s", bare, maxsplit=1)[0]


def _needs(needs: Mapping[str, Any]) -> list[str]:
    """Return the quantities that a loss reads by default, by side, and positions other than the answers'."""
    sides = [f"{side}: {needs[side]}" for side in needs if needs[side] and not side.endswith(("_positions", "layer"))]
    odd = [f"{k}: {v}" for k, v in needs.items() if k.endswith("_positions") and v != "answer" and needs[k[:-10]]]
    return sides + odd + ([f"layer: {needs['layer']}"] if needs["layer"] else [])


def _default(setting: Any) -> Any:
    """Return a setting's default as plain data; "required" if it has none."""
    from expunge.core.fingerprints import canonical

    if setting.default is not dataclasses.MISSING:
        return canonical(setting.default)
    return "required" if setting.default_factory is dataclasses.MISSING else canonical(setting.default_factory())


def _wrappers_and_edits() -> Iterator[tuple[str, str, Any, list[str]]]:
    from expunge.methods.grad_transforms import grad_transform_registry
    from expunge.methods.weight_edits import weight_edit_registry

    for name, step in grad_transform_registry().items():
        yield "step", name, step, list(step.needs)
    for name, edit in weight_edit_registry().items():
        yield "edit", name, edit, [f"others: {edit.others}"] if edit.others else []


def _metrics() -> dict[str, dict[str, Any]]:
    from expunge.metrics import families

    return {
        name: {
            "about": f.page.splitlines()[0],
            "paper": f.paper,
            "range": f.range,
            "higher_is": f.higher_is,
            "revision": f.revision,
            "page": f.page,
        }
        for name, f in families().items()
    }


def _benchmarks() -> dict[str, dict[str, Any]]:
    from expunge.benchmarks import benchmarks

    return {name: {"about": spec.about, "page": spec.page} for name, spec in benchmarks().items()}


def _audits() -> dict[str, dict[str, Any]]:
    from expunge.audits import audit_registry

    return {
        name: {
            "about": _about(spec.page),
            "paper": spec.paper,
            "settings": {f.name: _default(f) for f in dataclasses.fields(spec.cls)},
            "revision": spec.revision,
            "page": spec.page,
        }
        for name, spec in audit_registry().items()
    }


def _table(entries: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = [
        c for c in ("shape", "about", "higher_is", "range", "needs", "paper") if any(c in e for e in entries.values())
    ]
    for column in ("name", *columns):
        table.add_column(column.replace("_", " "))
    for name, entry in entries.items():
        cells = [entry.get(c, "") for c in columns]
        table.add_row(_names(name, entry), *(", ".join(c) if isinstance(c, list) else str(c) for c in cells))
    Console().print(table)


def _names(name: str, entry: Mapping[str, Any]) -> str:
    aliases = ", ".join(entry.get("aliases", ()))
    return f"{name} ({aliases})" if aliases else name


def _page(name: str, entry: Mapping[str, Any]) -> None:
    console = Console()
    console.print(name, style="bold")
    console.print(inspect.cleandoc(entry["page"]), markup=False, highlight=False)
    for key in ("shape", "paper", "settings", "needs", "aliases", "metrics"):
        if entry.get(key):
            value = entry[key] if not isinstance(entry[key], str) else [entry[key]]
            written = value.items() if isinstance(value, dict) else ()
            text = ", ".join(f"{k}={_yaml(v)}" for k, v in written) or ", ".join(value)
            console.print(f"{key}: {text}", markup=False, highlight=False)


def _yaml(value: Any) -> str:
    """Return a setting as a user types it: null, true, text without quotes."""
    return value if isinstance(value, str) else json.dumps(value)
