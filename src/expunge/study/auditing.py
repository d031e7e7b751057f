"""Audits as jobs: what an audit asks for is done to each unlearned model and to its controls, then read."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from expunge.audits import (
    Audit,
    Change,
    Expansion,
    Found,
    Ground,
    Look,
    Nf4,
    Probe,
    Relearn,
    Told,
    audit_identity,
    make_audit,
)
from expunge.audits.api import audit_name
from expunge.benchmarks.panel import FORGET, HOLDOUT
from expunge.core.decode import decode
from expunge.core.errors import ConfigError
from expunge.core.files import link, write_json
from expunge.core.records import token_records
from expunge.data.rows import RowSet
from expunge.methods.objective import objective
from expunge.metrics.api import Metric, Result
from expunge.metrics.compute import compute
from expunge.metrics.compute import identity as panel_identity
from expunge.metrics.results import read_results, write_results
from expunge.models.load import load_model, pick_device, save_model
from expunge.report.model import AuditLine
from expunge.scoring.tokens import score_tokens
from expunge.study import measuring, work
from expunge.study.config import Study
from expunge.study.job import Job, Progress
from expunge.study.maker import REVISION, Maker
from expunge.study.setting import Setting
from expunge.study.store import Store
from expunge.training.config import TrainArgs
from expunge.training.loop import train

TOLD, ROWS = "audit.json", "rows.parquet"
EVAL_NAME = "AUDIT"
CONTROLS = ("retain", "full")


@dataclass(frozen=True)
class Subject:
    """A model of a study: what it is called, the job that makes it (None: the given model), and its training seed."""

    name: str
    label: str
    role: str
    train_seed: int
    seed: int | None
    model: Job | None


@dataclass(frozen=True)
class Audited:
    """One audit of one unlearned model."""

    name: str
    subject: Subject
    job: Job


def check_audits(study: Study) -> list[Audit]:
    """The audits of a study. Raises ConfigError for a wrong name or setting, or where they cannot be held."""
    made = [make_audit(entry, f"audits[{i}]") for i, entry in enumerate(study.audits)]
    if made and not study.methods:
        raise ConfigError("audits: there is nothing to audit; name `methods`")
    for i, audit in enumerate(made):
        if "nf4" in getattr(audit, "forms", ()) and importlib.util.find_spec("bitsandbytes") is None:
            raise ConfigError(f"audits[{i}].forms: nf4 needs bitsandbytes; pip install 'expunge[quant]'")
    return made


def audited(label: str, links: Mapping[str, str], sets: Mapping[str, RowSet], whole: str) -> bool:
    """Whether a model of this label is audited: of a chain of requests, the last alone, which was to forget all rows.

    links: the forget sets by the names of their requests; whole: the set they are parts of. Raises ConfigError where
    the requests leave forget rows out, which no model was asked to forget.
    """
    if "" in links:
        return True
    n, of = sum(len(sets[name]) for name in links.values()), len(sets[whole])
    if n < of:
        raise ConfigError(
            f"audits: the requests name {n} of {of} forget rows, and audits read all; name every row once"
        )
    return "@" not in label or label.endswith(f"@{list(links)[-1]}")


def audit_jobs(study: Study, setting: Setting, subjects: Sequence[Subject]) -> tuple[Audited, ...]:
    """A job for each audit and unlearned model, above the probes of the model and of its controls.

    Raises ConfigError where the rows do not allow what an audit asks for.
    """
    out: list[Audited] = []
    audits = check_audits(study)
    if not audits:
        return ()
    names = [audit_name(audit) for audit in audits]
    ground = ground_of(study, setting)
    for i, audit in enumerate(audits):
        name = names[i] if names.count(names[i]) == 1 else f"{names[i]} {names[: i + 1].count(names[i])}"
        asked = audit.expand(ground)
        maker = _AuditMaker(study, setting, asked)
        beside = {(s.train_seed, s.role): s for s in subjects if s.role in CONTROLS}
        probes = {
            subject.name: maker.probes(subject, {role: beside.get((subject.train_seed, role)) for role in CONTROLS})
            for subject in subjects
        }
        for subject in subjects:
            if subject.role != "unlearn":
                continue
            sides = {
                s.role: probes[s.name] for s in subjects if s.role in CONTROLS and s.train_seed == subject.train_seed
            }
            job = maker.told(f"{subject.name} {name}", audit, ground, {"model": probes[subject.name], **sides})
            out.append(Audited(name, subject, job))
    return tuple(out)


def ground_of(study: Study, setting: Setting) -> Ground:
    """The rows that audits are made of. Raises ConfigError if the benchmark has nothing to forget."""
    benchmark, template = setting.benchmark, setting.template
    sets = benchmark.sets
    name = FORGET if FORGET in sets else benchmark.forget_set
    if name not in sets:
        raise ConfigError(f"audits: benchmark={benchmark.name} has no rows to forget")
    tags = (template.user_start_tag, template.user_end_tag + template.asst_start_tag)
    return Ground(
        forget=dataclasses.replace(sets[name], name=name),
        retain=sets.get(benchmark.retain_set),
        holdout=dataclasses.replace(sets[HOLDOUT], name=HOLDOUT) if HOLDOUT in sets else None,
        opens=("", "\n") if template.apply_chat_template else tags,
        samples=study.eval.sampling.samples,
    )


class _AuditMaker(Maker):
    """Makes the jobs of one audit: over its own rows, with the panels of its probes."""

    def __init__(self, study: Study, setting: Setting, asked: Expansion) -> None:
        benchmark = dataclasses.replace(
            setting.benchmark, sets=asked.sets, panel=(), eval_name=EVAL_NAME, full_sets=(), retain_sets=()
        )
        super().__init__(dataclasses.replace(setting, benchmark=benchmark), study.eval)
        self._study, self._asked = study, asked

    def probes(self, subject: Subject, controls: Mapping[str, Subject | None]) -> dict[str, Job]:
        """What is measured of one model, by probe; what needs a control that is not there is left out."""
        return {
            probe.name: self._probe(subject, probe, controls)
            for probe in self._asked.probes
            if not isinstance(probe.change, Look) or all(controls[role] for role in probe.change.beside)
        }

    def _probe(self, subject: Subject, probe: Probe, controls: Mapping[str, Subject | None]) -> Job:
        label = f"{subject.name} {probe.name}"
        if isinstance(probe.change, Look):
            beside = {role: held.model for role in probe.change.beside if (held := controls[role])}
            return self._looked(label, subject.model, probe.change, beside)
        if isinstance(probe.change, Relearn):
            return self._relearned(label, subject.model, probe.change, probe.panel)
        model = self._changed(label, subject.model, probe.change)
        maker = _with_panel(self, probe.panel)
        return maker.metrics(label, maker.records(label, model), None)

    def _changed(self, label: str, model: Job | None, change: Change) -> Job | None:
        """The job that makes a changed model; its weights may go when they have been scored."""
        if change is None or isinstance(change, Relearn | Look):
            return model
        if isinstance(change, Nf4):
            job = Job(
                kind="edit",
                label=label,
                identity={"revision": REVISION, "edit": {"name": "nf4"}, **self._source_identity(model)},
                parents={} if model is None else {"model": model},
                do=lambda folder, parents, progress: _in_nf4(folder, self._source(parents), self.setting, progress),
            )
        else:
            job = self.edited(label, change, model, ())
        # a method of the study may be the same edit, under another name
        return dataclasses.replace(job, identity={**job.identity, "audit": True}, passing=True)

    def _looked(self, label: str, model: Job | None, look: Look, beside: Mapping[str, Job | None]) -> Job:
        """Something read off the model itself, with the controls it asks for at hand."""
        parents = {"model": model, **beside}

        def do(folder: Path, found: Mapping[str, Path], progress: Progress) -> Mapping[str, Any]:
            sources = {role: str(found.get(role, self.setting.model.source)) for role in parents}
            sets = {name: self.setting.benchmark.sets[name] for name in look.sets}
            encoder = self.setting.encoder(sources["model"])

            def load(role: str) -> Any:
                return work.load_trained(sources[role], self.setting).eval()

            results = look.measure(load, sets, encoder)
            write_results(folder, results, self.meta(), prefix=self.eval_file.removesuffix("EVAL.json"))
            progress(1, 1)
            return {"results": len(results)}

        given = [role for role, job in parents.items() if job is None]
        return Job(
            kind="inside",
            label=label,
            identity={
                "revision": REVISION,
                "look": {"name": type(look).__name__, "revision": look.revision, **dataclasses.asdict(look)},  # type: ignore[call-overload]
                "rows": {name: self._rows[name] for name in look.sets},
                "given": given,
                **self._source_identity(None if given else model),
            },
            parents={role: job for role, job in parents.items() if job is not None},
            do=do,
            estimate=self._sizes.read(look.sets, sum(len(self.setting.benchmark.sets[n]) for n in look.sets)),
        )

    def _relearned(self, label: str, model: Job | None, change: Relearn, panel: Sequence[Metric]) -> Job:
        args = relearn_args(change, self._study)
        scored = {m.rows: m.tokens for m in panel if m.rows}
        identity = {
            "revision": REVISION,
            "trained": self._rows[change.rows],
            "scored": {name: [self._rows[name], tokens] for name, tokens in scored.items()},
            "steps": change.steps,
            "args": args.identity,
            "columns": measuring.COLUMNS["tokens"],
            **self._source_identity(model),
        }

        def do(folder: Path, parents: Mapping[str, Path], progress: Progress) -> Mapping[str, Any]:
            return relearn(folder, self._source(parents), self.setting, change, scored, args, progress)

        return Job(
            kind="relearn",
            label=label,
            identity=identity,
            parents={} if model is None else {"model": model},
            do=do,
            estimate=self._sizes.fit({"retain": (change.rows,)}, args, self.setting.template.max_length),
        )

    def told(self, label: str, audit: Audit, ground: Ground, sides: Mapping[str, Mapping[str, Job]]) -> Job:
        """The reading of all that was measured of a model and its controls."""
        parents = {f"{who} {probe}": job for who, jobs in sides.items() for probe, job in jobs.items()}
        panels = {probe.name: panel_identity(probe.panel) for probe in self._asked.probes}

        def do(folder: Path, found: Mapping[str, Path], progress: Progress) -> Mapping[str, Any]:
            read = {
                who: probe_results(self._asked, {probe: found[f"{who} {probe}"] for probe in jobs})
                for who, jobs in sides.items()
            }
            told = audit.read(ground, Found(read["model"], read.get("retain"), read.get("full")))
            write_told(folder, told)
            progress(1, 1)
            return {reading.name: reading.verdict for reading in told.readings}

        identity = {
            "revision": REVISION,
            "audit": audit_identity(audit),
            "ground": {"rows": dict(sorted(self._rows.items())), "samples": ground.samples},
            "panels": panels,
        }
        return Job(kind="audit", label=label, identity=identity, parents=parents, do=do)


def probe_results(asked: Expansion, folders: Mapping[str, Path]) -> dict[str, dict[str, Result]]:
    """The results of each probe of one model, by the folders of their jobs; of a relearning one, after each step."""
    out: dict[str, dict[str, Result]] = {}
    for probe in asked.probes:
        folder = folders[probe.name]
        if not isinstance(probe.change, Relearn):
            out[probe.name] = read_results(folder / f"{EVAL_NAME}_EVAL.json")[0]
            continue
        rows = {m.rows for m in probe.panel if m.rows}
        for step in probe.change.steps:
            tokens = {name: token_records(pq.read_table(folder / _file(name, step))) for name in rows}
            out[f"{probe.name}@{step}"] = compute(probe.panel, tokens, {})
    return out


def _with_panel(maker: _AuditMaker, panel: Sequence[Metric]) -> Maker:
    benchmark = dataclasses.replace(maker.setting.benchmark, panel=tuple(panel))
    return Maker(dataclasses.replace(maker.setting, benchmark=benchmark), maker.evaluation)


def relearn_args(change: Relearn, study: Study) -> TrainArgs:
    """A plain fine-tuning at a constant rate; the study's `unlearn` gives the rate where the audit does not.

    Samples are not grouped by length: the first steps of a longer run are then those of a shorter one.
    """
    own = decode(TrainArgs, dict(study.unlearn), where="unlearn")
    return TrainArgs(
        learning_rate=own.learning_rate if change.learning_rate is None else change.learning_rate,
        max_steps=max(change.steps),
        per_device_train_batch_size=change.batch_size,
        gradient_accumulation_steps=1,
        weight_decay=0.0,
        lr_scheduler_type="constant",
        group_by_length=False,
        optim=own.optim,
        activation_checkpointing=own.activation_checkpointing,
        seed=change.seed,
    )


def relearn(
    folder: Path,
    source: str,
    setting: Setting,
    change: Relearn,
    scored: Mapping[str, Sequence[str]],
    args: TrainArgs,
    progress: Progress,
) -> dict[str, Any]:
    """Train a model on a few rows, and write the token records of the scored rows as they are after each of the steps.

    The weights are not kept. One run serves all steps: its first steps are those of a shorter run.
    """
    encoder = setting.encoder(source)
    model = work.load_trained(source, setting)
    sets: Mapping[str, RowSet] = setting.benchmark.sets

    def measure(step: int) -> None:
        for name, tokens in scored.items():
            pq.write_table(score_tokens(model, sets[name], tokens, encoder), folder / _file(name, step))

    def after(done: int, total: int) -> None:
        if done in change.steps:
            measure(done)
        progress(done, total)

    measure(0)
    rows = {"retain": work.encode_sets([sets[change.rows]], encoder)}
    train(model, objective("finetune"), rows, args, pad_id=encoder.tokenizer.pad_token_id, progress=after)
    return {"steps": args.max_steps, "rows": len(sets[change.rows])}


def _file(rows: str, step: int) -> str:
    return f"{rows}.{step}.tokens.parquet"


def _in_nf4(folder: Path, source: str, setting: Setting, progress: Progress) -> dict[str, Any]:
    """The weights as 4-bit NormalFloat holds them, written back as plain ones: every scorer reads them alike."""
    held = dataclasses.replace(setting.model.model_args, dtype="float32")
    model = load_model(source, held, device=pick_device(setting.model.device), quantize="nf4")
    save_model(model.dequantize(), setting.encoder(source).tokenizer, folder)
    progress(1, 1)
    return {"models": 1}


def write_told(folder: Path, told: Told) -> None:
    """The readings as JSON, and the table of rows, if there is one, as parquet."""
    write_json(folder / TOLD, [_plain(dataclasses.asdict(reading)) for reading in told.readings])
    if told.rows:
        pq.write_table(pa.table({name: list(column) for name, column in told.rows.items()}), folder / ROWS)


def audit_lines(audited: Sequence[Audited], store: Store, seed_of: Callable[[Subject], Any]) -> tuple[AuditLine, ...]:
    """The readings of finished audits, in the order of the study."""
    out = []
    for one in audited:
        for reading in json.loads((store.path(one.job) / TOLD).read_text(encoding="utf-8")):
            numbers: dict[str, Any] = {k: math.nan if v is None else v for k, v in reading.items() if k != "details"}
            details = {k: math.nan if v is None else float(v) for k, v in reading["details"].items()}
            line = AuditLine(
                audit=one.name, label=one.subject.label, seed=seed_of(one.subject), details=details, **numbers
            )
            out.append(line)
    return tuple(out)


def show_audit_rows(audited: Sequence[Audited], store: Store, folder: Path) -> list[Path]:
    """The tables of rows of finished audits in a folder, `<model> <audit>.parquet`; earlier ones are replaced."""
    made = []
    for one in audited:
        source = store.path(one.job) / ROWS
        if not source.is_file():
            continue
        target = folder / f"{one.job.folder_name.rpartition('-')[0]}.parquet"
        folder.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        link(source, target)
        made.append(target)
    return made


def _plain(value: Any) -> Any:
    """Numbers as JSON takes them: null for NaN, text for infinity."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
