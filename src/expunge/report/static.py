"""The figures as files for a paper: SVG, PDF and PNG, drawn by kaleido with a Chromium of this machine."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path

from expunge.core.errors import ConfigError, nearest
from expunge.core.files import write_bytes
from expunge.report.figures import figures
from expunge.report.model import ReportModel

FORMATS = ("svg", "pdf", "png")
WIDTH = 720  # pixels; SVG and PDF scale


def check_formats(formats: Sequence[str]) -> None:
    """Raise ConfigError for a name that is no format of figures."""
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(f"--figures: no format named {name!r}{nearest(name, FORMATS)}")


def write_figures(model: ReportModel, folder: Path, formats: Sequence[str]) -> tuple[Path, ...]:
    """Write every figure of the report as NAME.FORMAT, each atomically. Raises ConfigError if that is impossible."""
    check_formats(formats)
    if importlib.util.find_spec("kaleido") is None:
        raise ConfigError("--figures: needs kaleido, which is not installed: pip install 'expunge[figures]'")
    import plotly.io

    named = [(about.name, about.figure) for about in figures(model) if about.figure is not None]
    with tempfile.TemporaryDirectory() as temporary:
        files = [(figure, Path(temporary) / f"{name}.{kind}") for name, figure in named for kind in formats]
        try:
            # One browser renders them all.
            plotly.io.write_images(
                fig=[figure for figure, _ in files], file=[path for _, path in files], width=WIDTH, scale=2
            )
        except (RuntimeError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"--figures: the figures could not be drawn, is a Chromium installed? {reason}") from None
        absent = next((path.name for _, path in files if not path.is_file()), None)  # kaleido skips some silently
        if absent is not None:
            raise ConfigError(
                f"--figures: {absent} could not be drawn; does the label of a run contain control characters?"
            )
        for _, path in files:
            write_bytes(folder / path.name, path.read_bytes())
    return tuple(folder / path.name for _, path in files)
