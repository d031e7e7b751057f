"""The figures as files for a paper: SVG, PDF and PNG, drawn by kaleido with a Chromium of this machine."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError, nearest
from expunge.core.files import write_bytes
from expunge.report.figures import figures
from expunge.report.model import ReportModel

FORMATS = ("svg", "pdf", "png")
WIDTH = 720  # pixels; SVG and PDF scale
TIMEOUT_S = 300  # for one figure, on a busy machine


def check_formats(formats: Sequence[str]) -> None:
    """Raise ConfigError for a name that is no format of figures."""
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(f"--figures: no format named {name!r}{nearest(name, FORMATS)}")


def _short(error: BaseException) -> str:
    """Return the text of an error of the browser in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _draw(files: Sequence[tuple[dict[str, Any], Path]]) -> tuple[Exception, ...]:
    """Draw each figure into its file with one browser, and return the errors of the browser.

    The page that draws loads nothing from the network: labels are no formulas.
    """
    import kaleido

    drawings = [
        {"fig": figure, "path": path, "opts": {"format": path.suffix[1:], "width": WIDTH, "scale": 2}}
        for figure, path in files
    ]
    return tuple(kaleido.write_fig_from_object_sync(drawings, kopts={"mathjax": False, "timeout": TIMEOUT_S}) or ())


def write_figures(model: ReportModel, folder: Path, formats: Sequence[str]) -> tuple[Path, ...]:
    """Write every figure of the report as NAME.FORMAT, each atomically. Raises ConfigError if that is impossible."""
    check_formats(formats)
    if importlib.util.find_spec("kaleido") is None:
        raise ConfigError("--figures: needs kaleido, which is not installed: pip install 'expunge[figures]'")
    named = [(about.name, about.figure.to_dict()) for about in figures(model) if about.figure is not None]
    with tempfile.TemporaryDirectory() as temporary:
        files = [(figure, Path(temporary) / f"{name}.{kind}") for name, figure in named for kind in formats]
        try:
            reasons = _draw(files)
            if reasons:  # a busy machine can lose the page of a figure: a second browser draws it
                reasons = _draw([(figure, path) for figure, path in files if not path.is_file()])
        except (RuntimeError, OSError, ValueError) as error:
            raise ConfigError(
                f"--figures: the figures could not be drawn, is a Chromium installed? {_short(error)}"
            ) from None
        absent = next((path.name for _, path in files if not path.is_file()), None)
        if absent is not None:
            why = "; ".join(dict.fromkeys(map(_short, reasons)))
            raise ConfigError(
                f"--figures: {absent} could not be drawn ({why}); does a label contain control characters?"
            )
        for _, path in files:
            write_bytes(folder / path.name, path.read_bytes())
    return tuple(folder / path.name for _, path in files)
