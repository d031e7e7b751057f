"""`expunge import`: other projects' files as a study file or a model folder."""

from __future__ import annotations

import shlex
from pathlib import Path

from expunge.core.errors import ConfigError, keys_named
from expunge.core.files import write_text
from expunge.core.terminal import complain, say


def import_experiments(configs: Path, name: str | None, out: Path) -> int:
    """Write one experiment of a fork of OpenUnlearning to a file, or all of them to a folder. Raises ConfigError."""
    from expunge.benchmarks.metric_suite import tofu_panel
    from expunge.benchmarks.muse import muse_panel
    from expunge.cli.config_files import CONF, method_settings, shipped
    from expunge.cli.field_docs import fields_of
    from expunge.cli.schema import hint_of
    from expunge.core.yaml_text import read_yaml
    from expunge.interop.open_unlearning.fork_files import experiments
    from expunge.interop.open_unlearning.import_configs import FORMS, Known, import_experiment

    if out.exists():
        raise ConfigError(f"--out: {out} exists already; name another file or folder")
    if name:
        _check_yaml(out, "an experiment")
    weights = frozenset(fields_of("methods/objective.py", "TermWeights"))
    known = Known(
        methods={method: own | weights for method, own in method_settings().items()},
        is_key=lambda mode, key: hint_of(mode, key) is not None,
        metrics=frozenset(metric.name for metric in (*tofu_panel(holdout=True), *muse_panel())),
        models={model: read_yaml(CONF / "model" / f"{model}.yaml", "model") for model in shipped("model")},
    )
    for each in [name] if name else experiments(configs):
        result = import_experiment(configs, each, known)
        file = out if name else out / f"{result.name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, result.to_yaml())
        for note in result.notes:
            complain(f"note: {result.name}: {note}")
        say(f"written: {file}; see its settings with: expunge config {result.mode} experiment={shlex.quote(str(file))}")
    complain(f"note: {FORMS}")
    return 0


def import_study(configs: Path, top: str | None, out: Path) -> int:
    """Write the study file; the notes go to standard error and, as comments, into the file."""
    from expunge.interop.arcsf import import_arcsf
    from expunge.pipelines.study.config import decode_study

    if out.exists():
        raise ConfigError(f"--out: {out} exists already; name another file")
    _check_yaml(out, "a study")
    study = import_arcsf(configs, top)
    decode_study(study.tree)
    write_text(out, study.to_yaml())
    for note in study.notes:
        complain(f"note: {note}")
    say(", ".join(f"{n} {kind}" for kind, n in study.counts.items()))
    say(f"written: {out}; see the jobs with: expunge plan study={shlex.quote(str(out))}")
    return 0


def _check_yaml(out: Path, kind: str) -> None:
    """Raise ConfigError for a file that no later command would take as settings."""
    from expunge.cli.config_files import SUFFIXES

    if out.suffix not in SUFFIXES:
        raise ConfigError(f"--out: {out}: {kind} is a YAML file; name it {out}.yaml")


def import_checkpoint(file: Path, tokenizer: Path | None, out: Path) -> int:
    """Write a checkpoint of llama2.c as a model folder with its tokenizer."""
    if out.exists():
        raise ConfigError(f"--out: {out} exists already; name another folder")
    if tokenizer is None:
        near = next((p for p in (file.parent, *file.absolute().parents[1:3]) if any(p.glob("tok*.model"))), None)
        hint = f", such as {next(near.glob('tok*.model'))}" if near is not None else ""
        raise ConfigError(f"--tokenizer: missing; name the vocabulary of the checkpoint{hint}")
    from expunge.core.files import whole_folder
    from expunge.models.config import TokenizerArgs
    from expunge.models.llama2c import load_checkpoint, to_llama
    from expunge.models.load import load_tokenizer, save_model
    from expunge.models.sentencepiece import read_model, to_tokenizer

    content = load_checkpoint(file)
    if tokenizer.suffix == ".model":
        longest = int((content["model_args"] or {}).get("max_seq_len") or 1024)
        own = to_tokenizer(read_model(tokenizer), max_length=longest)
    else:
        with keys_named({"model.tokenizer_args.pretrained_model_name_or_path": "--tokenizer"}):
            own = load_tokenizer(str(tokenizer), TokenizerArgs())
    model = to_llama(content, own, str(file))
    with whole_folder(out) as part:
        save_model(model, own, part)
    step = content.get("iter_num")
    say(f"{model.num_parameters()} parameters{'' if step is None else f', step {step}'}")
    say(f"written: {out}")
    say(f"next:    expunge passport {shlex.quote(str(out))}")
    return 0
