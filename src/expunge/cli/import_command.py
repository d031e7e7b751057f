"""`expunge import`: other projects' files as a study file."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from expunge.core.errors import ConfigError
from expunge.core.files import write_text


def import_study(configs: Path, top: str | None, out: Path) -> int:
    """Write the study file; the notes go to standard error and, as comments, into the file."""
    from expunge.interop.arcsf import import_arcsf
    from expunge.pipelines.study.config import decode_study

    if out.exists():
        raise ConfigError(f"--out: {out} is there already; name another file")
    made = import_arcsf(configs, top)
    decode_study(made.tree)
    write_text(out, made.to_yaml())
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    print(", ".join(f"{n} {kind}" for kind, n in made.counts.items()))
    print(f"written: {out}; see the jobs with: expunge plan study={shlex.quote(str(out))}")
    return 0
