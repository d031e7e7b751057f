"""Run `expunge erase`: measure, search, select, save, audit, report.

Every step is a job of a store in the output folder, so a call that was stopped continues with the next step.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.core.errors import JobError
from expunge.core.files import sweep_parts, whole_folder, write_json, write_sealed, write_text
from expunge.core.fingerprints import canonical
from expunge.core.numbers import nulled
from expunge.data.encoder import Encoder
from expunge.engine.job import Job, in_order
from expunge.engine.retention import GarbagePlan, remove
from expunge.engine.show import change_notes, write_manifest
from expunge.engine.show import show as show_files
from expunge.engine.store import Store
from expunge.judges.api import Judge
from expunge.metrics.results import read_results
from expunge.metrics.verdict import Verdict
from expunge.models.folder_files import whole_model
from expunge.models.load import load_tokenizer, pick_device
from expunge.pipelines.audit_jobs.results import show_audit_rows
from expunge.pipelines.budget import Budget
from expunge.pipelines.erase.attacks import AttackResult, entries, run_audits, seconds_of
from expunge.pipelines.erase.commitment import commit, own_key
from expunge.pipelines.erase.findings import erasure, model_card
from expunge.pipelines.erase.goal_values import EraseFinding, exit_code
from expunge.pipelines.erase.goals import BeforeAfter, judge, still_known, why_broken
from expunge.pipelines.erase.jobs import UNSEEN
from expunge.pipelines.erase.preflight import MOST_TOKENS, Examiner, Preflight, examine
from expunge.pipelines.erase.published import decimals, published
from expunge.pipelines.erase.request import (
    PREFLIGHT,
    RESULT,
    UTILITY,
    EraseRun,
    read_state,
    shown_settings,
    with_file_rows,
    with_preflight,
)
from expunge.pipelines.erase.rows import KNOWN, asked_rows, counted
from expunge.pipelines.erase.search import (
    ENOUGH_SHARE,
    Show,
    best,
    budget_of,
    measuring,
    plan_search,
    refine,
    results_of,
    run_job,
    search,
)
from expunge.pipelines.erase.trials import (
    SearchGoal,
    TrialResult,
    check_trials,
    first_rate,
    methods_of,
    own_args,
    trial_job,
    trial_of,
    wanted_steps,
)
from expunge.pipelines.erase.verdict import erase_verdict
from expunge.pipelines.output_folder import claimed_folder
from expunge.pipelines.study.config import StudyConfig
from expunge.pipelines.study.resolve_task import template_of
from expunge.pipelines.study.task_context import check_model
from expunge.pipelines.study_jobs import LM_EVAL_FILE
from expunge.report.erasure import erasure_report

MODEL, REPORT = "model", "erasure_report"
OWN = ("job.json", "log.jsonl", "speed.jsonl", "trajectory.jsonl", "expunge.json")  # files of the store, not of a model
NO_CONTROL = "no_control.json"
NOTHING_KNOWN = "the model knows none of the rows to forget, so there is nothing to erase; nothing was written"
NOT_WRITTEN = "no model was written: {} (see --write-anyway)"
NO_AUDIT = "not run: the model was not written"
CONTROL_SHARE = 0.4  # maximum share of the budget to train a control


@dataclass(frozen=True)
class EraseOutcome:
    """A finished erasure: its folder, the verdict, its last lines, the trials (a dict each), and the exit code.

    written: whether there is a model in the folder.
    """

    folder: Path
    verdict: Verdict
    lines: tuple[EraseFinding, ...]
    trials: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...]
    code: int
    written: bool = True


def know_rows(erasing: EraseRun, tell: Callable[[str], None] = lambda line: None) -> EraseRun:
    """Return the run with its preflight: the stored one, or the model's answers of now. Writes nothing.

    Raises JobError if the model gives no finite numbers, because no trial could be selected.
    """
    check_trials(erasing)
    erasing = with_file_rows(erasing)
    place = erasing.work / PREFLIGHT
    if place.is_file():
        return with_preflight(erasing, Preflight.from_dict(read_state(place)))
    began = time.monotonic()
    sets, study = erasing.final.setting.benchmark.sets, erasing.request.study
    whole = asked_rows(erasing.setting.benchmark.sets["retain"], study)
    preflight = examine(_examiner(erasing), sets["forget_eval"], whole, make_near=study.retain is None, tell=tell)
    if not any(math.isfinite(row.probability) for row in preflight.rows):
        why = "its answers have no finite probability"
        raise JobError(f"the model before: {KNOWN} has no number ({why}); do its weights contain NaN or infinities?")
    return with_preflight(erasing, dataclasses.replace(preflight, seconds=round(time.monotonic() - began, 3)))


def _examiner(erasing: EraseRun) -> Examiner:
    study = erasing.request.study
    return _loaded(study, erasing.setting.encoder(str(study.model.source)), erasing.request.judge)


def answers_of(study: StudyConfig) -> Callable[[Sequence[str]], list[str]]:
    """Return a function that answers questions by a study's model. Raises ConfigError for a wrong model."""
    check_model(study.model)
    source = str(study.model.source)
    tokenizer = load_tokenizer(study.model.tokenizer_source or source, study.model.tokenizer_args)
    return _loaded(study, Encoder(template_of(study), tokenizer)).answers


def _loaded(study: StudyConfig, encoder: Encoder, judge: Judge | None = None) -> Examiner:
    from expunge.evaluation.passport import load_checked

    device = pick_device(study.model.device)
    model, _ = load_checked(str(study.model.source), study.model.model_args, encoder.tokenizer, device=device)
    most = min(study.eval.generation.max_new_tokens, MOST_TOKENS)
    return Examiner(model, encoder, dataclasses.replace(study.eval.generation, max_new_tokens=most), judge)


def carry_out_erase(erasing: EraseRun, show: Show, command: str = "") -> EraseOutcome:
    """Run the missing steps. Raises the error of a job that the model depends on."""
    out = erasing.request.out
    erasing = erasing if erasing.preflight is not None else know_rows(erasing)
    if erasing.preflight is None or not erasing.preflight.known:
        raise JobError(NOTHING_KNOWN)
    settings = canonical(shown_settings(erasing.request))
    with claimed_folder(out, erasing.mark, settings, noun="erasure"):
        if not (erasing.work / PREFLIGHT).is_file():
            write_sealed(erasing.work / PREFLIGHT, erasing.preflight.to_dict())
        done = erasing.work / RESULT
        outcome = _read(out, done) if done.is_file() and _is_complete(out) else None
        if outcome is None or (erasing.request.write_anyway and not outcome.written):
            outcome = _erase(erasing, show, command)
        return dataclasses.replace(outcome, notes=(*outcome.notes, *change_notes(out / MODEL)))


def _erase(erasing: EraseRun, show: Show, command: str) -> EraseOutcome:
    store = Store(erasing.work)
    preflight = erasing.preflight
    budget = budget_of(erasing.request.budget_s, store.root, 0.0 if preflight is None else preflight.seconds)
    before = _measured(erasing, "before", None, store, show)
    _check_alive(before)
    erasing, control = _control(erasing, store, show, budget)
    results = {"before": before, **({} if control is None else {"control": results_of(erasing.final, control, store)})}
    goal = _goal(erasing, results)
    steps = plan_search(erasing, goal, store, show, budget)
    trial_results = search(erasing, steps, goal, store, show, budget)
    winner = best(trial_results, goal)
    for _ in range(2):
        after = _measured(erasing, "after", winner.job, store, show)
        measured = BeforeAfter(before, after, results.get("control"), None if preflight is None else preflight.known)
        refined = _refined(erasing, winner, trial_results, measured, goal, store, show, budget)
        if refined is None or best([winner, refined], goal.nearest()) is winner:
            break
        winner = refined
    broken = why_broken(erasing, measured, winner)
    is_written = not broken or erasing.request.write_anyway
    if is_written:
        _save(erasing, winner, store)
        attacks = run_audits(erasing, winner, store, show, budget)
    else:
        attacks = [AttackResult(name, reason=NO_AUDIT) for name in entries(erasing)]
    lines = [*([] if is_written else [EraseFinding("not achieved", NOT_WRITTEN.format(broken))])]
    exact = erase_verdict(erasing, measured, attacks)
    verdict = dataclasses.replace(published(exact, _places(erasing)), model=exact.model)
    lines += published(judge(erasing, measured, winner, attacks, verdict), _places(erasing))
    if is_written:
        card = model_card(erasing, winner, lines, verdict, _commitment(erasing))
        write_text(erasing.request.out / MODEL / "README.md", card)
    return _write(erasing, measured, winner, trial_results, attacks, lines, verdict, budget, store, command, is_written)


def _refined(
    erasing: EraseRun,
    winner: TrialResult,
    results: list[TrialResult],
    measured: BeforeAfter,
    goal: SearchGoal,
    store: Store,
    show: Show,
    budget: Budget,
) -> TrialResult | None:
    """Return the best model trained further on the rows that it still knows, and add it to the results.

    None if it keeps no row, is under the floor, or was trained further already.
    """
    left = still_known(measured)
    if not left or not winner.passes or winner not in results or results[-1].refined:
        return None
    refined = refine(erasing, winner, left, goal, store, show, budget)
    if refined is not None:
        results.append(refined)
    return refined


def _measured(erasing: EraseRun, name: str, model: Job | None, store: Store, show: Show) -> dict[str, Any]:
    """Measure a model, with the tasks of lm-evaluation-harness if some are named. Raises the error of a job."""
    job = measuring(erasing.final, name, model)
    run_job(f"the model {name}", job, store, show)
    results = results_of(erasing.final, job, store)
    tasks = erasing.final.harness(name, model)
    if tasks is not None:
        run_job(f"lm-eval, the model {name}", tasks, store, show)
        results |= read_results(store.path(tasks) / LM_EVAL_FILE)[0]
    return results


def _commitment(erasing: EraseRun) -> str:
    """Return the commitment to the rows to forget, under the key of this erasure's folder."""
    rows = erasing.file_rows or erasing.sets["forget"]
    return commit(own_key(erasing.request.out), rows)


def _check_alive(before: Mapping[str, Any]) -> None:
    """Raise JobError if the model gives no finite numbers, because no trial could be selected."""
    for name in (KNOWN, UTILITY):
        if not math.isfinite(before[name].value):
            why = before[name].reason or "its answers have no finite probability"
            raise JobError(f"the model before: {name} has no number ({why}); do its weights contain NaN or infinities?")


def _goal(erasing: EraseRun, results: Mapping[str, Mapping[str, Any]]) -> SearchGoal:
    """Return the goal of the search: the probability of a model that never saw the rows, if it is known."""
    start, target = float(results["before"][KNOWN].value), None
    if "control" in results:
        target = results["control"][KNOWN].value
    elif UNSEEN in results["before"]:
        target = results["before"][UNSEEN].value
    target = None if target is None or not math.isfinite(target) else float(target)
    gap = max(start - (target or 0.0), 0.0)
    return SearchGoal(target, ENOUGH_SHARE * erasing.request.target * gap, start)


def _control(erasing: EraseRun, store: Store, show: Show, budget: Budget) -> tuple[EraseRun, Job | None]:
    """Return the job of the control's metrics; None, with a note, if its training exceeds the budget."""
    if erasing.control is None:
        return erasing, None
    control = erasing.control
    job = measuring(erasing.final, "control", control)
    place = erasing.work / NO_CONTROL  # written to a file, because a later call must search for the same goal
    needed = seconds_of([control, measuring(erasing.final, "before", None)], store)
    if place.is_file() or (needed > CONTROL_SHARE * budget.limit_s and not store.there(control)):
        why = f"No control was trained: it takes about {needed:.0f} s, more than {CONTROL_SHARE:.0%} of the budget."
        if not place.is_file():
            write_sealed(place, {"reason": why})
        why = str(read_state(place)["reason"])
        return dataclasses.replace(erasing, control=None, notes=(*erasing.notes, why)), None
    run_job("a model that never saw the rows", job, store, show)
    return erasing, job


def _save(erasing: EraseRun, winner: TrialResult, store: Store) -> Path:
    """Save the selected model to its own folder, with a card without measurements."""
    folder = erasing.request.out / MODEL
    if folder.exists():
        return folder
    sweep_parts(folder)
    with whole_folder(folder) as part:
        source = store.path(winner.job)
        files = [p.relative_to(source).as_posix() for p in whole_model(source) if p.name not in OWN]
        show_files(winner.job, store, part, names={name: name for name in files})
        write_manifest(part)
        write_text(part / "README.md", model_card(erasing, winner, (), None, _commitment(erasing)))
    return folder


def _write(
    erasing: EraseRun,
    measured: BeforeAfter,
    winner: TrialResult,
    results: Sequence[TrialResult],
    attacks: Sequence[AttackResult],
    lines: Sequence[EraseFinding],
    verdict: Verdict,
    budget: Budget,
    store: Store,
    command: str,
    is_written: bool,
) -> EraseOutcome:
    """Write the report as page, text and JSON, the audits' tables of rows, and last the result that marks the end."""
    out = erasing.request.out
    record = store.record(winner.job) or {}
    report = erasure(
        erasing, measured, winner, attacks, lines, verdict=verdict,
        weights=_hashes(record) if is_written else {},
        seconds=budget.used_s, steps=record["facts"]["steps"], command=command,
        commitment=_commitment(erasing),
    )  # fmt: skip
    places = _places(erasing)
    numbers = published({name: getattr(report, name) for name in ("findings", "kept", "missing", "notes")}, places)
    report = dataclasses.replace(report, **numbers)
    page = erasure_report(report)
    write_text(out / f"{REPORT}.html", page.html)
    write_text(out / f"{REPORT}.md", page.markdown)
    show_audit_rows([h.audited for h in attacks if h.audited], store, out / "audits")
    trials = tuple(_trial(t, t is winner, places) for t in results)
    code = exit_code(lines)
    summary = {
        "verdict": verdict.to_dict(),
        "exit_code": code,
        "written": is_written,
        "lines": [dataclasses.asdict(x) for x in lines],
        "trials": trials,
    }
    write_json(out / f"{REPORT}.json", nulled({**summary, "report": dataclasses.asdict(report)}))
    _tidy(erasing, winner, results, attacks, store)
    write_sealed(erasing.work / RESULT, nulled({**summary, "notes": report.notes}))
    return EraseOutcome(out, verdict, tuple(lines), trials, report.notes, code, is_written)


def _hashes(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of each file of weights in the model's folder; an adapter in a folder of its own is merged."""
    files = record["files"].items()
    return {name: sha[0] for name, sha in files if name.endswith(".safetensors") and "/" not in name}


def _places(erasing: EraseRun) -> int:
    """Return the decimal places of the numbers that the card and the report show."""
    return decimals(len(erasing.sets["forget_eval"]))


def _trial(result: TrialResult, is_winner: bool, places: int) -> dict[str, Any]:
    trial = dataclasses.asdict(result.trial)
    numbers = published({**result.values, "ability": result.ability}, places)
    return {**trial, **numbers, "kept_step": result.step, "floor_kept": result.passes,
            "chosen": is_winner, "reason": result.reason}  # fmt: skip


def _tidy(
    erasing: EraseRun,
    winner: TrialResult,
    results: Sequence[TrialResult],
    attacks: Sequence[AttackResult],
    store: Store,
) -> None:
    """Remove files that no job needs: the weights of other trials, rounded weights, references."""
    garbage = []
    targets = [t.job for t in results] + [h.audited.job for h in attacks if h.audited]
    for job in in_order(targets):
        folder = store.path(job)
        if job.key == winner.job.key or not folder.is_dir():
            continue
        if job.ephemeral:
            garbage.append(GarbagePlan(folder, job.key, "the jobs that read it are done"))
        elif job.kind == "unlearn":
            names = tuple(sorted(p.name for p in folder.glob("*.safetensors")))
            garbage += [GarbagePlan(folder, job.key, "another trial was selected", names)] if names else []
    remove(garbage, store)


def _is_complete(out: Path) -> bool:
    """Return whether the report of a finished erasure is in its folder; a lost one is written again."""
    return all((out / f"{REPORT}.{form}").is_file() for form in ("html", "md", "json"))


def _read(out: Path, done: Path) -> EraseOutcome:
    summary = read_state(done)
    lines = tuple(EraseFinding(**line) for line in summary["lines"])
    verdict = Verdict.from_dict(summary["verdict"])
    return EraseOutcome(
        out, verdict, lines, tuple(summary["trials"]), tuple(summary["notes"]), int(summary["exit_code"]),
        bool(summary["written"]),
    )  # fmt: skip


def dry_run(erasing: EraseRun, tell: Callable[[str], None]) -> None:
    """Print the plan. Writes nothing."""
    request, sets = erasing.request, erasing.search.setting.benchmark.sets
    tell(f"rows to forget: {len(sets['forget_eval'])}, trained on as {len(sets['forget'])} rows in several wordings")
    tell(
        f"rows to keep: {counted(sets['retain'])}, {len(sets['retain_eval'])} to choose by, "
        f"{len(erasing.sets['retain_eval'])} to report"
    )
    control = "none; see --retain-model, --base with --train-data, --holdout" if erasing.control is None else "yes"
    tell(f"a model that never saw the rows: {control}")
    if own_args(erasing).lora is not None:
        tell("trains: LoRA adapters (unlearn.lora=null trains all weights)")
    steps, rate = wanted_steps(erasing), first_rate(erasing)
    for i, (method, factor) in enumerate(methods_of(erasing).items()):
        trial = trial_of(erasing, method, rate if request.learning_rate is not None else rate * factor, steps)
        seconds = seconds_of([trial_job(erasing, trial, SearchGoal())], Store(erasing.work))
        begins = "first trial" if i == 0 else "or later"
        early = "; the budget ends it earlier" if seconds > request.budget_s else ""
        tell(f"{begins}: {trial.label}, at most {steps} steps, about {seconds:.0f} s by the model's size{early}")
    if request.learning_rate is None:
        tell("further learning rates follow from the results")
    for name, entry in entries(erasing).items():
        tell(f"audit: {name}" + (f" (not held: {entry})" if isinstance(entry, str) else ""))
    tell(f"budget: {request.budget_s:.0f} s; as many trials and audits as fit, by the time of the first steps")
