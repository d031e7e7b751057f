"""`--push REPOSITORY`: upload a finished model or table of results to the Hugging Face Hub, with a card."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge import __version__
from expunge.core.hub import CARD, card, check_repository, upload
from expunge.core.terminal import say

if TYPE_CHECKING:
    from expunge.metrics.verdict import Verdict

LIMITS = "No test can prove that a model contains nothing of a text. Copies of the model before are not covered."


def check_push(parsed: argparse.Namespace) -> None:
    """Raise ConfigError for options of `--push` that are wrong, before anything is computed."""
    if parsed.push is not None:
        check_repository(parsed.push)
    elif parsed.public:
        from expunge.core.errors import ConfigError

        raise ConfigError("--public: belongs to --push OWNER/NAME")


def check_new_repository(parsed: argparse.Namespace, source: str) -> None:
    """Raise ConfigError if `--push` names the model that a command starts from, whose history keeps its weights."""
    if parsed.push is not None and parsed.push.lower() == source.lower():
        from expunge.core.errors import ConfigError

        raise ConfigError(
            f"--push: {parsed.push} is the model that this command starts from. It would be replaced, and its history "
            "keeps the weights of before; name another repository"
        )


def push_job(parsed: argparse.Namespace, done: Any, prepared: Any, command: str) -> str:
    """Upload the model of `train` or `unlearn`. Returns the address."""
    from expunge.models.config import looks_local
    from expunge.pipelines.erase.published import decimals

    single = prepared.single
    source = str(single.model.source)
    facts = {
        "method": single.trainer.handler,
        "settings of the method": ", ".join(f"{k}={v}" for k, v in single.trainer.method_args.items()),
        "start": Path(source).name if looks_local(source) else source,  # a path names folders of this machine
        "benchmark": single.benchmark,
        "commitment to data, settings and start": _commitment(done.folder),
        "command": f"`{command}`",
        "version": f"expunge {__version__}",
    }
    title = f"{parsed.push.rpartition('/')[2]}: {'unlearned' if single.mode == 'unlearn' else 'fine-tuned'} by Expunge"
    about = [f"`expunge {single.mode}` made this model."] + ([LIMITS] if single.mode == "unlearn" else [])
    tags = ["unlearning"] if single.mode == "unlearn" else []
    benchmark = prepared.setting.benchmark
    places = decimals(len(benchmark.sets[benchmark.forget_set]))
    text = card(title, tags, about, facts, _measured(done.summary, done.verdict, places))
    return _uploaded(parsed, done.folder, text)


def push_erasure(parsed: argparse.Namespace, folder: Path) -> str:
    """Upload the model of `erase` with the card that the erasure wrote. Returns the address."""
    return _uploaded(parsed, folder, (folder / CARD).read_text(encoding="utf-8"))


def push_results(parsed: argparse.Namespace, file: Path, studies: Sequence[str], command: str) -> str:
    """Upload a table of results as a dataset. Returns the address."""
    about = [
        "A line per run and number: study, cell, label, role (full, retain or unlearn), method, settings, seed; "
        "metric, value or the reason if there is none, a 95 % interval over rows, seconds and steps. "
        "It contains no text of a row.",
    ]
    facts = {"studies": ", ".join(studies), "command": f"`{command}`", "version": f"expunge {__version__}"}
    text = card(f"Results of {', '.join(studies)}", ["unlearning"], about, facts)
    address = upload(parsed.push, "dataset", {file.name: file}, text, private=not parsed.public)
    say(f"pushed:  {address}")
    return address


def _uploaded(parsed: argparse.Namespace, folder: Path, text: str) -> str:
    from expunge.models.folder_files import model_files

    address = upload(parsed.push, "model", model_files(folder), text, private=not parsed.public)
    if not getattr(parsed, "json", False):
        say(f"pushed:  {address}")
    return address


def _commitment(folder: Path) -> str:
    """Return the keyed commitment to a job that its folder has; "" for a folder of an earlier version."""
    from expunge.engine.mark import MARK, commitment

    return commitment((folder / MARK).read_text(encoding="utf-8"))


def _measured(summary: Mapping[str, float | None], verdict: Verdict | None, places: int) -> str:
    """Return the verdict and the numbers as markdown, rounded: exact numbers confirm guesses of rows."""
    from expunge.metrics.verdict import QUESTIONS
    from expunge.pipelines.erase.published import published
    from expunge.report.markup import markdown_table

    parts = []
    if verdict is not None:
        answers = published(verdict, places).answers.items()
        lines = [f"- {QUESTIONS[k]} **{answer.word}**. {answer.sentence}" for k, answer in answers]
        parts += ["## Verdict", "", *lines, ""]
    rows = [(name, published(f"{value:.4g}", places)) for name, value in summary.items() if value is not None]
    if rows:
        parts += ["## Measured", "", *markdown_table(("metric", "value"), "lr", rows)]
    return "\n".join(parts)
