"""Options of Hydra's command line, as other projects' commands have them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from expunge.cli.schema import GROUPS
from expunge.core.errors import ConfigError

COMMANDS = {"train": "train", "unlearn": "unlearn", "eval": "eval"}


def with_hydra_options(parsed: argparse.Namespace) -> list[str]:
    """Return the words of a single job with the files of `--config-dir`. Raises ConfigError.

    `--config-name` must name this command. `--cfg job` prints the settings; other kinds of `--cfg` are refused.
    """
    if parsed.mode not in COMMANDS:
        raise ConfigError(
            "--config-name, --config-dir and --cfg are for `expunge train`, `unlearn` and `eval`; a study is "
            "study=FILE.yaml"
        )
    name = Path(parsed.config_name).stem if parsed.config_name else parsed.mode
    if name != parsed.mode:
        instead = f"write expunge {name}" if name in COMMANDS else "put its settings in a file: experiment=FILE.yaml"
        raise ConfigError(f"--config-name={parsed.config_name}: this is `expunge {parsed.mode}`; {instead}")
    keys = {word.partition("=")[0].lstrip("+") for word in parsed.overrides}
    if parsed.config_name and not keys & {"experiment", "benchmark"}:
        from expunge.interop.open_unlearning.data_words import experiment_word

        raise ConfigError(
            f"--config-name={parsed.config_name}: selects no experiment; add {experiment_word(parsed.mode, 'tofu')}, "
            "or benchmark=NAME"
        )
    if parsed.cfg not in (None, "job"):
        raise ConfigError(f"--cfg {parsed.cfg}: only `--cfg job` is known; write expunge config {parsed.mode} ...")
    folder = parsed.config_dir or parsed.config_path
    if folder is None:
        return list(parsed.overrides)
    if not Path(folder).is_dir():
        raise ConfigError(f"--config-dir: no folder {folder}")
    if (Path(folder) / "trainer" / "finetune.yaml").is_file():
        raise ConfigError(_of_a_fork(Path(folder), parsed.overrides))
    return [_from_folder(word, Path(folder), parsed.mode) for word in parsed.overrides]


def _of_a_fork(folder: Path, words: Sequence[str]) -> str:
    """Return the line for the configs of OpenUnlearning or of a fork, which have other keys."""
    named = [word.partition("=")[2] for word in words if word.startswith("experiment=")]
    one = f"--experiment {named[-1].removesuffix('.yaml')} " if named else ""
    return (
        f"--config-dir: {folder} has the files of OpenUnlearning or a fork; write expunge import openunlearning "
        f"{folder} {one}--out mine.yaml, then experiment=mine.yaml in place of --config-dir"
    )


def _from_folder(word: str, folder: Path, mode: str) -> str:
    """Return the word of a group with the file of the folder, if it has one of this name."""
    group, _, name = word.partition("=")
    file = folder / group / f"{name.removesuffix('.yaml')}.yaml"
    return f"{group}={file}" if group in GROUPS[mode] and file.is_file() else word
