"""`expunge erase`: what was asked, checked before any weight is read, and the rows of the search and of the report."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.core.durations import seconds
from expunge.core.errors import ConfigError
from expunge.core.files import write_json
from expunge.core.fingerprints import canonical, file_sha256, fingerprint
from expunge.data.custom import load_rows
from expunge.data.examples import ANSWER, ExampleSet
from expunge.data.template import n_truncated
from expunge.engine.job import Job
from expunge.methods.objective import Objective, objective
from expunge.models.config import TokenizerArgs, check_source, looks_local, source_identity
from expunge.models.load import load_tokenizer, pick_device
from expunge.pipelines.erase import jobs
from expunge.pipelines.erase.jobs import GivenModelJob, columns_of, control_context, erase_context
from expunge.pipelines.study.config import StudyConfig
from expunge.pipelines.study.context_source import ContextSource
from expunge.pipelines.study.estimate import weights_in
from expunge.pipelines.study.measuring import tokenizer_mark
from expunge.pipelines.study.resolve_task import resolve_task
from expunge.pipelines.study.task_context import TaskContext, check_model
from expunge.pipelines.study.training_jobs import TrainingJobs
from expunge.training.config import MOST_SEED

AUTO = "auto"
KNOWN, LEFT = "forget_Q_A_Prob", "extraction_strength"
UTILITY = "retain_Q_A_Prob"
WORK = ".expunge"
MARK, RESULT = "request.json", "result.json"


@dataclass(frozen=True, kw_only=True)
class EraseRequest:
    """What `expunge erase` was asked to do.

    study: the model, the template and the rows (`benchmark=custom`). method: a name, or auto. budget_s: seconds for the
    search and the audits. floor: the share of utility at the start that must stay. target: the share of what was known
    of the forget rows that may be left. retain_model: a model that never saw the rows; base, full_data: what one can be
    made of. show_text: put the rows' texts into the report.
    """

    study: StudyConfig
    out: Path
    method: str = AUTO
    method_args: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None
    budget_s: float = 1800.0
    floor: float = 0.9
    target: float = 0.2
    seed: int = 0
    retain_model: str | None = None
    base: str | None = None
    full_data: str | None = None
    show_text: bool = False


@dataclass(frozen=True)
class EraseRun:
    """A checked request. search: makes the trials, choosing by some of the rows to keep. final: measures by others.

    control: the job of a model that never saw the rows, where one is given or can be made. mark: what tells this
    request from another. cut: how many of the rows to forget are too long to be unlearned whole.
    file_sha256: of the file of the rows to forget.
    """

    request: EraseRequest
    search: TrainingJobs
    final: TrainingJobs
    control: Job | None
    mark: str
    notes: tuple[str, ...]
    cut: int = 0
    file_sha256: str = ""

    @property
    def work(self) -> Path:
        """Where the jobs are kept."""
        return self.request.out / WORK

    @property
    def sets(self) -> Mapping[str, ExampleSet]:
        """The rows by role; `retain_eval` holds those that report."""
        return self.final.setting.benchmark.sets


def prepare_erase(request: EraseRequest) -> EraseRun:
    """Check everything and read the rows. Raises ConfigError or DataError before any weight is read."""
    _check_numbers(request)
    check_method(request.method, request.method_args)
    study = request.study
    check_model(study.model)
    for key in ("retain_model", "base"):
        if getattr(request, key) is not None:
            check_source(getattr(request, key), f"--{key.replace('_', '-')}")
    if request.retain_model and not looks_local(request.retain_model):
        raise ConfigError(f"--retain-model: no folder {request.retain_model}")
    if request.retain_model:
        weights_in(request.retain_model, "--retain-model")
    if request.retain_model and (request.base or request.full_data):
        raise ConfigError("--retain-model: is the control already; leave --base and --train-data out")
    if (request.base is None) != (request.full_data is None):
        lacks = "--base" if request.base is None else "--train-data"
        raise ConfigError(
            f"{lacks}: missing; a control is made by training --base, the model as it was before, on --train-data, all "
            "rows it was trained on, without those to forget"
        )
    pick_device(study.model.device)
    setting = resolve_task(study)
    search, final = _makers(study, setting)
    _check_tokenizers(request, setting)
    mark = _mark(request, setting)
    _check_out(request.out, mark)
    cut = cut_rows(setting)
    notes = (*setting.benchmark.notes, *((_cut_note(cut, setting),) if cut else ()))
    file = file_sha256(Path(str(study.forget)).expanduser())
    return EraseRun(request, search, final, _control(request, search), mark, notes, cut, file)


def cut_rows(setting: TaskContext) -> int:
    """How many of the rows to forget are longer than what is trained on; texts are trained on in pieces, whole."""
    rows, encoder = setting.benchmark.sets["forget"], setting.encoder(str(setting.model.source))
    if rows.long == "pieces":
        return 0
    return n_truncated(encoder.rows(rows, [(row, ANSWER) for row in rows]))


def _cut_note(cut: int, setting: TaskContext) -> str:
    n, most = len(setting.benchmark.sets["forget"]), setting.template.max_length
    return (
        f"{cut} of the {n} rows to forget are longer than {most} tokens: what lies beyond is not unlearned, nor "
        "measured; raise model.template_args.max_length, or cut the rows into shorter ones"
    )


def check_method(name: str, args: Mapping[str, Any]) -> Objective | None:
    """A method's name and settings; None for auto. Raises ConfigError."""
    if name == AUTO:
        if args:
            raise ConfigError("--method-arg: settings are a method's own; name one by --method")
        return None
    chosen = objective(name, args, where="--method")
    if not chosen.forgets:
        raise ConfigError(f"--method: {name} does not unlearn; see `expunge methods` (allowed: auto, or one of these)")
    if chosen.spec.teacher == "start":
        raise ConfigError(f"--method: {name} goes on from another method's model, which a study gives it")
    return chosen


def _check_numbers(request: EraseRequest) -> None:
    seconds(request.budget_s, "--budget")  # of a request made in Python, too
    for key, option in (("floor", "--min-utility"), ("target", "--max-residual")):
        if not 0 <= getattr(request, key) <= 1:
            raise ConfigError(f"{option}: must be a share from 0 to 1, got {getattr(request, key):g}")
    rate = request.learning_rate
    if not 0 <= request.seed < MOST_SEED:
        raise ConfigError(f"--seed: must be a whole number from 0 to 2**32 - 1, got {request.seed}")
    if rate is not None and not (rate > 0 and math.isfinite(rate)):
        raise ConfigError(f"--learning-rate: must be a number above 0, got {rate:g}")


def _check_tokenizers(request: EraseRequest, setting: TaskContext) -> None:
    """The template must fit the tokenizer, and a control must read as the model does. Raises ConfigError."""
    own = tokenizer_mark(setting.encoder(str(setting.model.source)).tokenizer)
    for key in ("retain_model", "base"):
        named = getattr(request, key)
        if named is not None and tokenizer_mark(load_tokenizer(named, TokenizerArgs())) != own:
            raise ConfigError(
                f"--{key.replace('_', '-')}: {named} reads with another tokenizer than the model; their losses per "
                "token do not compare"
            )


def _makers(study: StudyConfig, setting: TaskContext) -> tuple[TrainingJobs, TrainingJobs]:
    """The makers of the trials and of the report; rows to keep are drawn for each, and the rest is trained on."""
    source = ContextSource.of(study, setting)
    search, final = (
        TrainingJobs(own, study.eval, source.then("erase", {"part": part}, module=jobs.__name__).holding(own))
        for part in ("choose", "report")
        for own in [erase_context(setting, study, part)]
    )
    return search, final


def _control(request: EraseRequest, maker: TrainingJobs) -> Job | None:
    """The job of a model that never saw the rows: the given one, or --base trained on --train-data without them."""
    if request.retain_model is not None:
        return GivenModelJob.of(request.retain_model)
    if request.base is None or request.full_data is None:
        return None
    own = control_context(maker.setting, request.study, request.base, request.full_data)
    args = {"base": request.base, "full_data": request.full_data}
    source = maker.source.then("erase_control", args, module=jobs.__name__).holding(own)
    made = TrainingJobs(own, request.study.eval, source)
    return made.fit("control", None, objective("finetune"), {"retain": ("rest",)}, request.study.train)


def _mark(request: EraseRequest, setting: TaskContext) -> str:
    """What tells this request from another: settings and contents, no paths."""
    study, sets = request.study, setting.benchmark.sets
    control: dict[str, Any] = {}
    for key in ("retain_model", "base"):
        named = getattr(request, key)
        if named is not None:
            control[key] = source_identity(named, None)
    if request.full_data is not None:
        control["full_data"] = load_rows(request.full_data, "full", columns_of(study)).fingerprint()
        control["train"] = study.train.identity
    asked = {
        f.name: getattr(request, f.name)
        for f in dataclasses.fields(request)
        if f.name not in ("study", "out", "retain_model", "base", "full_data")
    }
    return fingerprint(
        {
            "rows": {name: rows.fingerprint() for name, rows in sets.items()},
            "model": source_identity(str(study.model.source), study.model.model_args.revision),
            "dtype": study.model.model_args.dtype,
            "template": study.template_args,
            "eval": study.eval,
            "asked": asked,
            **control,
        }
    )


def _check_out(out: Path, mark: str) -> None:
    """A new or empty folder, or one in which this very request was begun. Raises ConfigError."""
    if not out.exists():
        above = next(p for p in out.absolute().parents if p.exists())
        if not above.is_dir():
            raise ConfigError(f"--out: {out} cannot be made: {above.name} is a file, not a folder")
        return
    if not out.is_dir():
        raise ConfigError(f"--out: {out} is a file, not a folder")
    if not any(out.iterdir()):
        return
    try:
        held = json.loads((out / WORK / MARK).read_text(encoding="utf-8"))["request"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"--out: {out} already holds something; name a new or empty folder") from None
    if held != mark:
        raise ConfigError(
            f"--out: {out} holds another erasure (other rows, model or settings); name a new folder, or give the same "
            "settings to go on with it"
        )


def begin(erasing: EraseRun) -> None:
    """Mark the folder as this request's."""
    place = erasing.work / MARK
    if not place.exists():
        write_json(place, {"request": erasing.mark, "settings": canonical(_shown(erasing.request))})


def _shown(request: EraseRequest) -> dict[str, Any]:
    """The settings as the folder and the reports say them; no rows."""
    return {
        "method": request.method,
        "method_args": dict(request.method_args),
        "learning_rate": request.learning_rate,
        "budget_s": request.budget_s,
        "floor": request.floor,
        "target": request.target,
        "seed": request.seed,
    }
