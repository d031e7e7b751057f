"""OpenUnlearning's words that name data sets and their keys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from expunge.core.errors import ConfigError, nearest
from expunge.interop.open_unlearning.datasets import DATASETS, Dataset
from expunge.interop.open_unlearning.translation import Translation

DATA = re.compile(r"data\.(forget|retain|train)(?:\.(\w+)\.(.+))?|data/datasets@data\.(forget|retain|train)")


def check_experiment(mode: str, words: Sequence[str]) -> None:
    """Raise ConfigError for a word of a data set or a suite in a command without an experiment and a benchmark.

    Such a command has the default benchmark here, and the word would have no effect.
    """
    keys = {word.partition("=")[0].lstrip("+~"): word for word in words}
    if "experiment" in keys or "benchmark" in keys:
        return
    own = next(
        (word for key, word in keys.items() if DATA.fullmatch(key) or key.startswith(("eval.tofu.", "eval.muse."))),
        None,
    )
    if own is not None:
        name = next((name for name in ("muse", "wmdp") if name in own.lower()), "tofu")
        raise ConfigError(f"{own}: belongs to an experiment; add {experiment_word(mode, name)}")


def experiment_word(mode: str, benchmark: str) -> str:
    """Return the word for the default experiment of a command on a benchmark."""
    return f"experiment={'finetune' if mode == 'train' else mode}/{benchmark}/default"


def alternates_of(job: Translation) -> str | None:
    """Return the file of other answers to the forget questions, if the command names one.

    A file is one of other answers only with its handler. Without it, the file has the examples themselves.
    """
    handlers = [value for key, value in job.values.items() if key.endswith(".handler") and ".forget." in key]
    if "QAwithAlternateDataset" not in handlers:
        return None
    files = [value for key, value in job.values.items() if key.endswith("hf_args.data_files") and ".forget." in key]
    return files[0] if files else None


def data_word(job: Translation, match: re.Match[str], name: str, value: str) -> None:
    """Translate a word that names a data set, or a key of one. Raises ConfigError."""
    side, dataset, key, set_name = match.groups()
    if dataset is None:
        _chosen_dataset(job, set_name or side, name, value)
        return
    known = _known(dataset, "" if side == "train" else side, name, value)
    alternates = alternates_of(job) if side == "forget" else None
    if key == "handler":
        if value == "QAwithAlternateDataset" and alternates:
            _with_alternates(job, name, value, alternates)
        elif value not in known.handlers:
            raise ConfigError(f"{name}={value}: {dataset} is read as {known.handlers[0]}; for own data, write "
                              "benchmark=custom forget=FILE retain=FILE")  # fmt: skip
    elif alternates and key.removeprefix("args.") in ALTERNATES_KEYS:
        return  # parts of the file of other answers
    elif key in ("args.hf_args.name", "args.hf_args.split") and key == known.split_key:
        _split(job, side, name, value)
    elif key in known.fixed and value.lower() == known.fixed[key].lower():
        return
    elif key in OWN_FILES and known.benchmark != "wmdp" and (key != "args.hf_args.path" or value in FORMATS):
        file = job.values.get(f"data.{side}.{dataset}.args.hf_args.data_files", "FILE")
        raise ConfigError(f"{name}={value}: for a file of your own, write benchmark=custom "
                          f"{'retain' if side == 'retain' else 'forget'}={file}")  # fmt: skip
    elif key == "args.hf_args.path":
        if value not in FORMATS:  # the format of a corpus's file
            roots = {text for key, text in job.values.items() if ROOT.fullmatch(key) and text not in FORMATS}
            if len(roots) > 1:
                raise ConfigError(f"{name}={value}: all data sets are read from one place, and the command names "
                                  f"{', '.join(sorted(roots))}; put their files in one folder, or write "
                                  "benchmark=custom forget=FILE retain=FILE")  # fmt: skip
            job.rename(name, "data.root", value, ", from which all data sets are read")
    elif known.benchmark == "wmdp" and key in ("args.hf_args.data_files", "args.hf_args.name"):
        _corpus(job, side, name, value)
    elif key == "args.idk_path" and known.word == "trainer=DPO":
        job.add("data.refusals", value, name)
    elif key == "args.max_length":
        target = "model.template_args.max_length" if known.benchmark == "tofu" else "data.args.max_length"
        job.rename(name, target, value, ", which counts for all data sets")
    elif known.benchmark == "muse" and key == "args.hf_args.name" and value in ("scal", "sust") and side == "forget":
        job.add("data.args.series", value, f"{name}={value}")
    else:
        raise ConfigError(f"{name}={value}: not a setting here; for own data, write benchmark=custom forget=FILE")


ROOT = re.compile(r"data\.(forget|retain|train)\.\w+\.args\.hf_args\.path|data\.root")
OWN_FILES = ("args.hf_args.path", "args.hf_args.data_files", "args.hf_args.data_dir")
FORMATS = ("json", "csv", "text", "parquet", "arrow", "pandas")  # loaders of `datasets.load_dataset`


def _corpus(job: Translation, side: str, name: str, value: str) -> None:
    """Select a corpus of WMDP by its published name or by a file. Raises ConfigError."""
    published = re.fullmatch(rf"(bio|cyber)-{side}-corpus", Path(value).stem)
    if "${data_split}" in value:
        return
    if published and not Path(value).is_file():
        job.add("data_split", published[1], f"{name}={value}")
    elif value.startswith(("/", "~")):
        raise ConfigError(f"{name}={value}: give the path from the current folder, without a leading / or ~")
    else:
        job.add(f"{side}_split", value, name)


ALTERNATES_KEYS = (
    "hf_args.path", "hf_args.split", "hf_args.name", "hf_args.data_files", "alternate_key", "return_original",
)  # fmt: skip


def _with_alternates(job: Translation, name: str, value: str, file: str) -> None:
    """Read other answers from the file; without the file, `trainer=AltPO` samples them in the same command."""
    if Path(file).is_file():
        job.add("data.alternates", file, f"{name}={value}")
        if key := next((v for k, v in job.values.items() if k.endswith(".alternate_key")), None):
            job.add("data.alternate_key", key)
    elif job.values.get("trainer") in ("DPO", "AltPO"):
        if "trainer=DPO" in job.out:
            job.out.remove("trainer=DPO")
        job.values = {**job.values, "trainer": "AltPO"}
        job.add("trainer", "AltPO")
        job.notes.append(f"no file {file}: trainer=AltPO samples the other answers itself, in this command")
    else:
        raise ConfigError(f"{name}: no file {file}; write trainer=AltPO, which samples other answers itself")


def _known(dataset: str, side: str, name: str, value: str) -> Dataset:
    """Return a data set by its name. Raises ConfigError for other names, and for a file that stands for a side."""
    known = DATASETS.get(dataset)
    if known is not None:
        return known
    if side == "retain" and dataset.lower() in ("null", "none"):
        raise ConfigError(f"{name}={value}: leave it out; a method without a retain loss reads no retain rows")
    if side and Path(value).expanduser().is_file():
        raise ConfigError(f"{name}={value}: for a file of your own, write benchmark=custom {side}={value}")
    raise ConfigError(f"{name}={value}: no data set named {dataset!r}{nearest(dataset, DATASETS)}")


def _chosen_dataset(job: Translation, side: str, name: str, value: str) -> None:
    known = _known(value, side, name, value)
    if job.benchmark and known.benchmark != job.benchmark:
        raise ConfigError(
            f"{name}={value}: a data set of {known.benchmark}; write {experiment_word(job.mode, known.benchmark)}"
        )
    if side == "train":
        if not known.train_split:
            raise ConfigError(f"{name}={value}: no model is trained on it; write train_split=full, retain or forget")
        if not any(key.startswith(f"data.train.{value}.args.hf_args.") for key in job.values):
            job.add("train_split", known.train_split, f"{name}={value}")
    elif known.side != side:
        raise ConfigError(f"{name}={value}: no {side} set; write {side}_split=NAME")
    elif known.word:
        if known.word.startswith("trainer=") and job.values.get("trainer", "DPO") not in known.trainers:
            raise ConfigError(f"{name}={value}: only {' and '.join(known.trainers)} read refusals; add {known.word}")
        if not known.word.startswith("trainer="):
            new, _, text = known.word.partition("=")
            job.add(new, text, f"{name}={value}")


def _split(job: Translation, side: str, name: str, value: str) -> None:
    if side != "train":
        job.rename(name, f"{side}_split", value, ", which the evaluation reads, too" if side == "forget" else "")
        return
    job.add("train_split", value, name)
    from expunge.data.loaders.tofu import SPLIT_SHARES

    share = SPLIT_SHARES.get(value)
    if share and "forget_split" not in job.values:
        job.add("forget_split", f"forget{share}")
        job.notes.append(f"{value} belongs to forget_split=forget{share}")
