"""`expunge erase`, carried out: measure, search, choose, save, audit, report. Every step is a job of a store in the
output folder, so that a call that was stopped goes on with the next one."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from expunge.core.errors import ConfigError, JobError
from expunge.core.files import sweep_parts, whole_folder, write_json, write_text
from expunge.engine.job import Job, in_order
from expunge.engine.show import show as show_files
from expunge.engine.store import Store
from expunge.metrics.results import read_results
from expunge.pipelines.audit_jobs.results import show_audit_rows
from expunge.pipelines.erase.attacks import AttackResult, entries, run_audits, seconds_of
from expunge.pipelines.erase.findings import BeforeAfter, EraseFinding, erasure, exit_code, judge, model_card
from expunge.pipelines.erase.jobs import UNSEEN
from expunge.pipelines.erase.request import KNOWN, RESULT, UTILITY, EraseRun, begin
from expunge.pipelines.erase.search import (
    BudgetClock,
    Show,
    TrialResult,
    best,
    candidates,
    carry_on,
    check_trials,
    plan_search,
    search,
    trial_job,
    wanted_steps,
)
from expunge.pipelines.study.retention import GarbagePlan, remove
from expunge.report.erasure import erasure_report

MODEL, REPORT = "model", "erasure_report"
OWN = ("job.json", "log.jsonl", "speed.jsonl", "trajectory.jsonl", "expunge.json")  # of the store, no part of a model
NO_CONTROL = "no_control.txt"
CONTROL_SHARE = 0.4  # of the budget, at most, to train a control


@dataclass(frozen=True)
class EraseOutcome:
    """A finished erasure: its folder, its last lines, the trials (a dict each), and the exit code."""

    folder: Path
    lines: tuple[EraseFinding, ...]
    trials: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]
    code: int


def carry_out_erase(erasing: EraseRun, show: Show, command: str = "") -> EraseOutcome:
    """Do what is not done yet. Raises the error of a job without which there is no model."""
    out = erasing.request.out
    check_trials(erasing)
    try:
        erasing.work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out: cannot make {out}: {error.strerror}") from None
    lock = FileLock(erasing.work / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"--out: another process is erasing in {out}") from None
    try:
        begin(erasing)
        done = erasing.work / RESULT
        return _read(out, done) if done.is_file() else _erase(erasing, show, command)
    except OSError as error:
        raise JobError(f"--out: cannot write under {out}: {error.strerror or error}") from error
    finally:
        lock.release()


def _erase(erasing: EraseRun, show: Show, command: str) -> EraseOutcome:
    store = Store(erasing.work)
    clock = BudgetClock(erasing.request.budget_s, store.root)
    before = _measure_job(erasing, "before", None)
    _do("the model before", before, store, show)
    _check_alive(_results(erasing, before, store))
    erasing, control = _control(erasing, store, show, clock)
    results = {who: _results(erasing, job, store) for who, job in (("before", before), ("control", control)) if job}
    goal = _goal(results)
    trials = plan_search(erasing, goal, store, show, clock)
    tried = search(erasing, trials, goal, store, show, clock)
    chosen = best(tried, goal)
    folder = _save(erasing, chosen, store)
    after = _measure_job(erasing, "after", chosen.job)
    _do("the model after", after, store, show)
    measured = BeforeAfter(results["before"], _results(erasing, after, store), results.get("control"))
    held = run_audits(erasing, chosen, store, show, clock)
    lines = judge(erasing, measured, chosen, held)
    write_text(folder / "README.md", model_card(erasing, chosen, lines))
    return _write(erasing, measured, chosen, tried, held, lines, clock, store, command)


def _do(title: str, job: Job, store: Store, show: Show) -> None:
    """A job that nothing goes on without."""
    outcome = carry_on(title, [job], store, show)
    if outcome.first:
        raise outcome.first


def _measure_job(erasing: EraseRun, name: str, model: Job | None) -> Job:
    final = erasing.final
    return final.metrics(name, final.records(name, model), None)


def _results(erasing: EraseRun, job: Job, store: Store) -> Mapping[str, Any]:
    return read_results(store.path(job) / erasing.final.eval_file)[0]


def _check_alive(before: Mapping[str, Any]) -> None:
    """Raise JobError where the model gives no numbers: nothing could be chosen by them, or said of them."""
    for name in (KNOWN, UTILITY):
        if not math.isfinite(before[name].value):
            why = before[name].reason or "its answers have no finite probability"
            raise JobError(f"the model before: {name} has no number ({why}); do its weights hold NaN or infinities?")


def _goal(results: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The probability that the search goes for: that of a model which never saw the rows, if anything says it."""
    if "control" in results:
        value = results["control"][KNOWN].value
    elif UNSEEN in results["before"]:
        value = results["before"][UNSEEN].value
    else:
        return None
    return float(value) if math.isfinite(value) else None


def _control(erasing: EraseRun, store: Store, show: Show, clock: BudgetClock) -> tuple[EraseRun, Job | None]:
    """The control's metrics; where its training does not fit into the budget, the erasure goes on without one."""
    if erasing.control is None:
        return erasing, None
    control = erasing.control
    job = _measure_job(erasing, "control", control)
    place = erasing.work / NO_CONTROL  # written down, for a later call must search for the same goal
    needed = seconds_of([control, _measure_job(erasing, "before", None)], store)
    if place.is_file() or (needed > CONTROL_SHARE * clock.budget_s and not store.there(control)):
        why = f"No control was trained: it takes about {needed:.0f} s, more than {CONTROL_SHARE:.0%} of the budget."
        if not place.is_file():
            write_text(place, why)
        why = place.read_text(encoding="utf-8")
        return dataclasses.replace(erasing, control=None, notes=(*erasing.notes, why)), None
    _do("a model that never saw the rows", job, store, show)
    return erasing, job


def _save(erasing: EraseRun, chosen: TrialResult, store: Store) -> Path:
    """The chosen model as a folder of its own, with a card that says it is not measured yet."""
    folder = erasing.request.out / MODEL
    if folder.exists():
        return folder
    sweep_parts(folder)
    with whole_folder(folder) as part:
        files = [p.name for p in store.path(chosen.job).iterdir() if p.is_file() and p.name not in OWN]
        show_files(chosen.job, store, part, names={name: name for name in files})
        write_text(part / "README.md", model_card(erasing, chosen, ()))
    return folder


def _write(
    erasing: EraseRun,
    measured: BeforeAfter,
    chosen: TrialResult,
    tried: Sequence[TrialResult],
    held: Sequence[AttackResult],
    lines: Sequence[EraseFinding],
    clock: BudgetClock,
    store: Store,
    command: str,
) -> EraseOutcome:
    """The report as page, text and JSON, the audits' tables of rows, and last the mark that all is done."""
    out = erasing.request.out
    record = store.record(chosen.job) or {}
    made = erasure(
        erasing, measured, chosen, held, lines,
        weights=" ".join(said[0] for name, said in record["files"].items() if name.endswith(".safetensors")),
        seconds=clock.spent_s, steps=record["facts"]["steps"], command=command,
    )  # fmt: skip
    page = erasure_report(made)
    write_text(out / f"{REPORT}.html", page.html)
    write_text(out / f"{REPORT}.md", page.markdown)
    show_audit_rows([h.audited for h in held if h.audited], store, out / "audits")
    trials = tuple(_trial(t, t is chosen) for t in tried)
    code = exit_code(lines)
    told = {"exit_code": code, "lines": [dataclasses.asdict(x) for x in lines], "trials": trials}
    write_json(out / f"{REPORT}.json", _plain({**told, "report": dataclasses.asdict(made)}))
    _tidy(erasing, chosen, tried, held, store)
    write_json(erasing.work / RESULT, _plain({**told, "notes": made.notes}))
    return EraseOutcome(out, tuple(lines), trials, made.notes, code)


def _trial(tried: TrialResult, chosen: bool) -> dict[str, Any]:
    trial = dataclasses.asdict(tried.trial)
    return {**trial, **tried.values, "kept_step": tried.step, "floor_kept": tried.passes, "chosen": chosen,
            "reason": tried.reason}  # fmt: skip


def _tidy(
    erasing: EraseRun, chosen: TrialResult, tried: Sequence[TrialResult], held: Sequence[AttackResult], store: Store
) -> None:
    """Free the disk of what nothing reads any more: the other trials' weights, rounded weights, references."""
    gone = []
    wanted = [t.job for t in tried] + [h.audited.job for h in held if h.audited]
    for job in in_order(wanted):
        folder = store.path(job)
        if job.key == chosen.job.key or not folder.is_dir():
            continue
        if job.ephemeral:
            gone.append(GarbagePlan(folder, job.key, "its readers are done"))
        elif job.kind == "unlearn":
            names = tuple(sorted(p.name for p in folder.glob("*.safetensors")))
            gone += [GarbagePlan(folder, job.key, "another trial was chosen", names)] if names else []
    remove(gone, store)


def _read(out: Path, done: Path) -> EraseOutcome:
    told = json.loads(done.read_text(encoding="utf-8"))
    lines = tuple(EraseFinding(**line) for line in told["lines"])
    return EraseOutcome(out, lines, tuple(told["trials"]), tuple(told["notes"]), int(told["exit_code"]))


def _plain(value: Any) -> Any:
    """As JSON takes it: null for a number that is missing."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def dry_run(erasing: EraseRun, tell: Callable[[str], None]) -> None:
    """Say what would be done; nothing is written and no weight is read."""
    request, sets = erasing.request, erasing.search.setting.benchmark.sets
    check_trials(erasing)
    tell(f"rows to forget: {len(sets['forget'])}")
    tell(
        f"rows to keep: {len(sets['retain'])} to train on, {len(sets['retain_eval'])} to choose by, "
        f"{len(erasing.sets['retain_eval'])} to report"
    )
    control = "none; see --retain-model, --base with --train-data, --holdout" if erasing.control is None else "yes"
    tell(f"a model that never saw the rows: {control}")
    steps, store = wanted_steps(erasing), Store(erasing.work)
    for i, option in enumerate(candidates(erasing)):
        trial = dataclasses.replace(option, steps=steps)
        seconds = seconds_of([trial_job(erasing, trial, None)], store)
        tell(f"trial {i + 1}: {trial.label}, at most {steps} steps, about {seconds:.0f} s by the model's size")
    for name, entry in entries(len(sets["forget"])).items():
        tell(f"audit: {name}" + (f" (not held: {entry})" if isinstance(entry, str) else ""))
    tell(f"budget: {request.budget_s:.0f} s; as many trials and audits as fit, by the time of the first steps")
