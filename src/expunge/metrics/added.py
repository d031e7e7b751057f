"""Metrics that join the suite of any benchmark by the name of their family (`eval.metrics`, plugins)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from expunge.core.errors import ConfigError, nearest
from expunge.metrics.api import Metric, families
from expunge.metrics.compute import with_parents

SIDES = {"forget_eval": "forget", "retain_eval": "retain"}  # set -> the start of the metric's name


def chosen_metrics(names: Sequence[str], suite: Sequence[Metric], sets: Collection[str]) -> tuple[Metric, ...]:
    """Return the metrics that `eval.metrics` selects.

    Args:
        names: Names of metrics of the suite, and of families that join it. With a name of the suite, only the named
            metrics of the suite and the metrics that they read are left. Empty: the suite.
        suite: The benchmark's metrics.
        sets: The names of the benchmark's sets.

    Raises:
        ConfigError: If a name is neither a metric of the suite nor such a family.
    """
    own = {metric.name for metric in suite}
    own_names = [name for name in names if name in own]
    added = added_metrics([name for name in names if name not in own], suite, sets)
    return (*(with_parents(suite, own_names) if own_names else suite), *added)


def added_metrics(
    names: Sequence[str], suite: Sequence[Metric], sets: Collection[str], *, where: str = "eval.metrics"
) -> list[Metric]:
    """Return a metric for each family and set: `forget_<family>` and `retain_<family>`.

    Args:
        names: Names of families that declare the records they read (`@family(..., reads=...)`).
        suite: The benchmark's metrics. They name the sets if the benchmark has no forget_eval and retain_eval.
        sets: The names of the benchmark's sets.
        where: The key for error messages.

    Returns:
        The metrics. A benchmark that lacks forget_eval or retain_eval has one for each set that its suite reads, as
        `<set>_<family>`.

    Raises:
        ConfigError: If a name is not such a family, or if the benchmark reads no examples.
    """
    if not names:
        return []  # the families are not imported
    known = {name: f for name, f in families().items() if f.reads}
    rows = [*SIDES] if SIDES.keys() <= set(sets) else sorted({m.rows for m in suite if m.rows})
    rows = rows or [name for name in SIDES if name in sets]
    out = []
    for name in dict.fromkeys(names):
        if name not in known:
            listed = [*known, *(m.name for m in suite)]
            attack = name == "privleak" or name.startswith("mia_")
            if attack and "holdout" not in sets and SIDES.keys() <= set(sets):
                words = "holdout_split=holdout10 of TOFU, or data.args.holdout=FILE of your own rows"
                place = "holdout=ROWS" if where == "metrics" else words
                raise ConfigError(f"{where}: {name} reads holdout rows, and there are none; write {place}")
            hint = "" if where == "metrics" else "; load the file that defines another one with --plugin FILE.py"
            raise ConfigError(f"{where}: no metric named {name!r}{nearest(name, listed)}{hint}")
        if not rows:
            raise ConfigError(f"{where}: {name} reads examples, and this benchmark reads none")
        out += [Metric(f"{SIDES.get(r, r)}_{name}", name, rows=r, reads=known[name].reads) for r in rows]
    return out
