"""Select the weights that a study may remove, by its policy.

Records, metrics and provenance of its jobs stay. `Store.restore` recomputes weights that a later job needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from expunge.engine.job import Job, in_order
from expunge.engine.retention import GarbagePlan, garbage, remove
from expunge.engine.store import Store
from expunge.pipelines.study.config import Keep
from expunge.pipelines.study.graph import ModelNode, StudyGraph

LIKE_RETRAINED = 0.05  # a forget quality at which the KS test does not separate a model from the retain model


def removals(graphs: Sequence[StudyGraph], store: Store, keep: Keep) -> list[GarbagePlan]:
    """Plan the removal of results from a store.

    Args:
        graphs: Every study that stays. Other results are removed whole.
        store: The store.
        keep: Whose weights stay, of the unlearned models of each study and cell; those of base, full and retain models
            always do. best: the model with the largest model utility among those whose forget quality is at least
            0.05, else the one with the largest forget quality; a model without these numbers stays. last: the last of
            each chain of requests. Weights that a job which is not done reads stay too.
    """
    jobs = {job.key: job for graph in graphs for job in in_order(graph.jobs)}
    return garbage(jobs, {} if keep == "all" else _strippable(graphs, jobs, store, keep), store)


def after_run(graphs: Sequence[StudyGraph], store: Store, keep: Keep) -> list[GarbagePlan]:
    """Remove weights of a finished study by its policy. Removes no results of other studies."""
    if keep == "all":
        return []
    jobs = {job.key for graph in graphs for job in in_order(graph.jobs)}
    done, _ = remove([r for r in removals(graphs, store, keep) if r.key in jobs], store)
    return done


def _strippable(graphs: Sequence[StudyGraph], jobs: Mapping[str, Job], store: Store, keep: Keep) -> dict[str, str]:
    """Return the keys of jobs whose weights may go, and the reasons."""
    leaves = [list(part.leaves) for graph in graphs for part in (graph.cells or {"": graph}).values()]
    first = {leaf.model.key for part in leaves for leaf in part if leaf.model and leaf.role != "unlearn"}
    out = {
        k: "an intermediate model" for k, j in jobs.items() if j.kind in ("train", "edit", "wrap") and k not in first
    }
    out |= {k: "the jobs that read it are done" for k, j in jobs.items() if j.ephemeral}
    out |= {leaf.model.key: f"keep={keep}" for part in leaves for leaf in part if leaf.model and leaf.role == "unlearn"}
    waiting = [job for job in jobs.values() if not store.there(job)]
    stays = {parent.key for job in waiting for parent in job.parents.values()} | first
    for part in leaves:
        stays |= {
            x.model.key for x in _models_to_keep([y for y in part if y.role == "unlearn"], store, keep) if x.model
        }
    return {key: why for key, why in out.items() if key not in stays}


def _models_to_keep(leaves: Sequence[ModelNode], store: Store, keep: Keep) -> Iterator[ModelNode]:
    """Yield the unlearned models of one cell whose weights stay."""
    if keep == "last":
        ends = {(x.label.partition("@")[0], x.train_seed, x.seed): x for x in leaves}
        yield from ends.values()
    if keep != "best":
        return
    ranked = []
    for leaf in leaves:
        facts: Mapping[str, Any] = (store.readable_record(leaf.metrics) or {}).get("facts", {})
        quality, utility = (facts.get(name) for name in ("forget_quality", "model_utility"))
        if quality is None or utility is None:
            yield leaf
        else:
            good = quality >= LIKE_RETRAINED
            ranked.append((good, utility if good else quality, leaf))
    if ranked:
        yield max(ranked, key=lambda r: r[:2])[2]
