"""`expunge erase`: the request, checked before any weight is read, and the rows of the search and of the report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expunge.core.durations import seconds
from expunge.core.errors import ConfigError, JobError
from expunge.core.files import read_sealed
from expunge.core.fingerprints import fingerprint
from expunge.data.custom import load_rows
from expunge.data.examples import ANSWER, ExampleSet
from expunge.engine.job import Job
from expunge.judges.api import Judge
from expunge.methods.objective import Objective, objective
from expunge.models.config import check_source, looks_local
from expunge.models.identity import model_identity, small_files, source_identity
from expunge.models.load import pick_device
from expunge.models.trial import try_model
from expunge.pipelines.erase import jobs
from expunge.pipelines.erase.jobs import GivenModelJob, columns_of, control_context, erase_context
from expunge.pipelines.erase.preflight import Preflight
from expunge.pipelines.output_folder import WORK, check_folder
from expunge.pipelines.study.config import StudyConfig
from expunge.pipelines.study.context_source import ContextSource
from expunge.pipelines.study.finished_models import model_of
from expunge.pipelines.study.resolve_task import resolve_task
from expunge.pipelines.study.task_context import TaskContext, check_model, check_same_tokenizer
from expunge.pipelines.study_jobs.estimate import weights_in
from expunge.pipelines.study_jobs.training_jobs import TrainingJobs
from expunge.training.config import MOST_SEED
from expunge.training.in_memory.method_kinds import other_kind

AUTO = "auto"
LEFT = "extraction_strength"
UTILITY = "retain_Q_A_Prob"
RESULT, PREFLIGHT = "result.json", "preflight.json"


@dataclass(frozen=True, kw_only=True)
class EraseRequest:
    """A request of `expunge erase`.

    study: the model, the template and the rows (`benchmark=custom`). method: a name, or auto. budget_s: seconds for the
    search and the audits. floor: the share of utility at the start that must stay. target: the share of the
    knowledge of the forget rows that may be left. retain_model: a model that never saw the rows; base, full_data: the
    model and the rows to train one from. show_text: include the rows' texts in the report. write_anyway: write a model
    under the floor too. judge: decides in the preflight whether a text contains an answer; None: by words.
    default_lora: train LoRA adapters in a large model unless the study sets which parameters are trained.
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
    write_anyway: bool = False
    judge: Judge | None = None
    default_lora: bool = True


@dataclass(frozen=True)
class EraseRun:
    """A checked request. search: creates the trials, selected on some rows to keep. final: measures other rows to keep.

    ability: measures the general ability of a trial's model, on other items than the report's.
    control: the job of a model that never saw the rows, if one is given or can be trained. mark: a
    fingerprint of this request. cut: the number of rows to forget that are too long to be unlearned whole.
    file_rows: the rows to forget as their file holds them. setting: the context of the user's files. preflight: the
    model's knowledge of the rows; None before the preflight.
    """

    request: EraseRequest
    setting: TaskContext
    search: TrainingJobs
    ability: TrainingJobs
    final: TrainingJobs
    control: Job | None
    mark: str
    notes: tuple[str, ...]
    cut: int = 0
    file_rows: ExampleSet | None = None
    preflight: Preflight | None = None

    @property
    def work(self) -> Path:
        """The folder of the jobs."""
        return self.request.out / WORK

    @property
    def sets(self) -> Mapping[str, ExampleSet]:
        """The rows by role; `retain_eval` contains the rows of the report."""
        return self.final.setting.benchmark.sets


def prepare_erase(request: EraseRequest) -> EraseRun:
    """Check the request and read the rows. Raises ConfigError or DataError before any weight is read."""
    _check_numbers(request)
    check_method(request.method, request.method_args)
    study = request.study
    check_model(study.model)
    work = request.out / WORK
    try_model(study.model, work if work.is_dir() else None)  # the output folder appears later
    for key in ("retain_model", "base"):
        if getattr(request, key) is not None:
            check_source(getattr(request, key), f"--{key.replace('_', '-')}")
    if request.retain_model:
        _check_control(request.retain_model, study, work if work.is_dir() else None)
    if request.retain_model and (request.base or request.full_data):
        raise ConfigError("--retain-model: it is the control already; remove --base and --train-data")
    if (request.base is None) != (request.full_data is None):
        lacks = "--base" if request.base is None else "--train-data"
        raise ConfigError(
            f"{lacks}: missing; a control needs --base, the model before training, and --train-data, all rows it was "
            "trained on; it is trained without the rows to forget"
        )
    pick_device(study.model.device)
    setting = resolve_task(study, Path(study.paths.store))
    search, ability, final = _makers(study, setting)
    _check_tokenizers(request, setting)
    mark = _mark(request, setting)
    check_folder(request.out, mark, noun="erasure", parts="rows, model or settings")
    cut = cut_rows(setting)
    notes = (*setting.benchmark.notes, *((_cut_note(cut, setting),) if cut else ()))
    return EraseRun(request, setting, search, ability, final, _control(request, search), mark, notes, cut)


def _check_control(retain_model: str, study: StudyConfig, store: Path | None) -> None:
    """Raise ConfigError unless --retain-model names a model that can be read: a folder or a hub id, as --model does."""
    model = model_of(study.model, retain_model, None)
    try:
        check_model(model, key="--retain-model")
        try_model(model, store)
    except ConfigError as error:
        raise ConfigError(f"--retain-model: {str(error).removeprefix('--retain-model: ')}") from None
    if looks_local(retain_model):
        weights_in(retain_model, "--retain-model")
    elif small_files(retain_model, model.model_args.revision) is None:
        raise ConfigError(f"--retain-model: no folder {retain_model}, and no such model on the hub or in its cache")


def with_file_rows(erasing: EraseRun) -> EraseRun:
    """Return the run with the rows as their file holds them, for its commitment and its report; a plan needs none."""
    study = erasing.request.study
    return dataclasses.replace(erasing, file_rows=load_rows(str(study.forget), "forget", columns_of(study)))


def with_preflight(erasing: EraseRun, preflight: Preflight) -> EraseRun:
    """Return the run with the rows that follow from the model's knowledge."""
    search, ability, final = _makers(erasing.request.study, erasing.setting, preflight)
    return dataclasses.replace(erasing, search=search, ability=ability, final=final, preflight=preflight)


def only_rows(erasing: EraseRun, rows: Sequence[int]) -> EraseRun:
    """Return the run whose trials train on some of the rows to forget; the others have left the forget set."""
    search, _, _ = _makers(erasing.request.study, erasing.setting, erasing.preflight, rows)
    return dataclasses.replace(erasing, search=search)


def cut_rows(setting: TaskContext) -> int:
    """Return the number of rows to forget that exceed the length limit; 0 for texts, which are trained on in pieces."""
    rows, encoder = setting.benchmark.sets["forget"], setting.encoder(str(setting.model.source))
    if rows.long == "pieces":
        return 0
    return encoder.n_cut(rows, [(row, ANSWER) for row in rows])


def longest_example(setting: TaskContext) -> int:
    """Return the maximum number of tokens of an example."""
    return setting.encoder(str(setting.model.source)).max_length


def _cut_note(cut: int, setting: TaskContext) -> str:
    n, most = len(setting.benchmark.sets["forget"]), longest_example(setting)
    return (
        f"{cut} of the {n} rows to forget are longer than {most} tokens: the rest is neither unlearned nor "
        "measured; raise model.template_args.max_length, or cut the rows into shorter ones"
    )


def check_method(name: str, args: Mapping[str, Any]) -> Objective | None:
    """Check a method's name and settings; returns None for auto. Raises ConfigError."""
    if name == AUTO:
        if args:
            raise ConfigError("--method-arg: settings belong to one method; name it by --method")
        return None
    if kind := other_kind(name):
        raise ConfigError(f"--method: no loss named {name!r}; {kind}")
    loss = objective(name, args, where="--method")
    if not loss.forgets:
        raise ConfigError(
            f"--method: {name} does not unlearn; see `expunge list methods` (allowed: auto, or one of these)"
        )
    if loss.spec.teacher == "start":
        raise ConfigError(
            f"--method: {name} needs the model of another unlearning run; use it in a study (methods[].from)"
        )
    return loss


def _check_numbers(request: EraseRequest) -> None:
    seconds(request.budget_s, "--budget")  # also checks requests from Python
    for key, option in (("floor", "--min-utility"), ("target", "--max-residual")):
        if not 0 <= getattr(request, key) <= 1:
            raise ConfigError(f"{option}: must be a share from 0 to 1, got {getattr(request, key):g}")
    rate = request.learning_rate
    if not 0 <= request.seed < MOST_SEED:
        raise ConfigError(f"--seed: must be a whole number from 0 to 2**32 - 1, got {request.seed}")
    if rate is not None and not (rate > 0 and math.isfinite(rate)):
        raise ConfigError(f"--learning-rate: must be a number above 0, got {rate:g}")


def _check_tokenizers(request: EraseRequest, setting: TaskContext) -> None:
    """Raise ConfigError if a control has another tokenizer than the model."""
    own = setting.encoder(str(setting.model.source)).tokenizer
    for key in ("retain_model", "base"):
        named = getattr(request, key)
        if named is not None:
            check_same_tokenizer(own, named, f"--{key.replace('_', '-')}", setting.model.tokenizer_args)


def _makers(
    study: StudyConfig, setting: TaskContext, preflight: Preflight | None = None, only: Sequence[int] | None = None
) -> tuple[TrainingJobs, TrainingJobs, TrainingJobs]:
    """Return the jobs of the trials, of a trial's general ability and of the report, each with its own rows."""
    source = ContextSource.of(study, setting)
    makers = []
    for part in ("choose", "ability", "report"):
        own = erase_context(setting, study, part, preflight, only)
        args: dict[str, Any] = {"part": part}
        if preflight is not None:
            args |= {"preflight": preflight.to_dict(), "only": None if only is None else list(only)}
        makers.append(TrainingJobs(own, study.eval, source.then("erase", args, module=jobs.__name__).holding(own)))
    return makers[0], makers[1], makers[2]


def _control(request: EraseRequest, maker: TrainingJobs) -> Job | None:
    """Return the job of a control: --retain-model, or --base trained on --train-data without the rows to forget."""
    if request.retain_model is not None:
        return GivenModelJob.of(request.retain_model)
    if request.base is None or request.full_data is None:
        return None
    own = control_context(maker.setting, request.study, request.base, request.full_data)
    args = {"base": request.base, "full_data": request.full_data}
    source = maker.source.then("erase_control", args, module=jobs.__name__).holding(own)
    control_jobs = TrainingJobs(own, request.study.eval, source)
    return control_jobs.fit("control", None, objective("finetune"), {"retain": ("rest",)}, request.study.train)


def _mark(request: EraseRequest, setting: TaskContext) -> str:
    """Return the fingerprint of a request: settings and contents, without paths."""
    study, sets = request.study, setting.benchmark.sets
    control: dict[str, Any] = {}
    for key in ("retain_model", "base"):
        named = getattr(request, key)
        if named is not None:
            control[key] = source_identity(named, None)
    if request.full_data is not None:
        control["full_data"] = load_rows(request.full_data, "full", columns_of(study)).fingerprint()
        control["train"] = study.train.identity
    settings = {
        f.name: getattr(request, f.name)
        for f in dataclasses.fields(request)
        if f.name not in ("study", "out", "retain_model", "base", "full_data", "write_anyway", "judge")
    }
    return fingerprint(
        {
            "rows": {name: rows.fingerprint() for name, rows in sets.items()},
            "model": model_identity(study.model),
            "dtype": study.model.model_args.dtype,
            **{
                group: args.options
                for group in ("model_args", "tokenizer_args")
                if (args := getattr(study.model, group)).options
            },
            **({"attention": attention} if (attention := study.model.model_args.attn_implementation) else {}),
            "template": study.template_args,
            "rendered": setting.rendered_template,
            "eval": study.eval,
            "asked": settings,
            "judge": None if request.judge is None else request.judge.name,
            **control,
        }
    )


def read_state(place: Path) -> dict[str, Any]:
    """Return the value of a file of the working folder. Raises JobError if it is damaged."""
    try:
        return read_sealed(place)
    except (OSError, ValueError) as error:
        raise JobError(f"{place} is damaged ({error}); remove it, and run again") from None


def shown_settings(request: EraseRequest) -> dict[str, Any]:
    """Return the settings for the folder and the reports, without rows."""
    return {
        "method": request.method,
        "method_args": dict(request.method_args),
        "learning_rate": request.learning_rate,
        "budget_s": request.budget_s,
        "floor": request.floor,
        "target": request.target,
        "seed": request.seed,
    }
