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


def write_figures(model: ReportModel, folder: Path, formats: Sequence[str]) -> tuple[Path, ...]:
    """Write every figure of the report as NAME.FORMAT, each whole. Raises ConfigError where it cannot be done."""
    for wanted in formats:
        if wanted not in FORMATS:
            raise ConfigError(f"--figures: no format named {wanted!r}{nearest(wanted, FORMATS)}")
    if importlib.util.find_spec("kaleido") is None:
        raise ConfigError("--figures: needs kaleido, which is not installed: pip install 'expunge[figures]'")
    import plotly.io

    drawn = [(about.name, about.figure) for about in figures(model) if about.figure is not None]
    with tempfile.TemporaryDirectory() as made:
        files = [(figure, Path(made) / f"{name}.{kind}") for name, figure in drawn for kind in formats]
        try:
            # One browser draws them all.
            plotly.io.write_images(
                fig=[figure for figure, _ in files], file=[path for _, path in files], width=WIDTH, scale=2
            )
        except (RuntimeError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(f"--figures: the figures could not be drawn, is a Chromium installed? {reason}") from None
        lost = next((path.name for _, path in files if not path.is_file()), None)  # kaleido says nothing of some
        if lost is not None:
            raise ConfigError(f"--figures: {lost} could not be drawn; does the label of a run hold control characters?")
        for _, path in files:
            write_bytes(folder / path.name, path.read_bytes())
    return tuple(folder / path.name for _, path in files)
