"""Take the pictures of the gallery: the first screen of each page, by the Chromium of this machine.

    python docs/take_pictures.py grid=saves/study/grid/report.html compare=saves/compare/NAME/compare.html
    python docs/take_pictures.py workspace=http://127.0.0.1:8765/

Each argument is a picture of `docs/pictures` and a page: a file, or the address of a running `expunge ui`. Chromium is
`chromium` or `google-chrome`, or its path in EXPUNGE_BROWSER.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PICTURES = Path(__file__).resolve().parent / "pictures"
WIDTH = 1180
HEIGHTS = {"report": 1000, "grid": 800, "compare": 860, "erasure": 760, "workspace": 1000}
DRAWN_MS = 20_000  # of the page's own clock, so that figures are drawn


def take_pictures(words: Sequence[str], folder: Path = PICTURES) -> list[Path]:
    """Write the pictures NAME=PAGE to a folder, and return their files. Raises SystemExit for a wrong argument."""
    pairs = [word.partition("=") for word in words]
    for name, is_pair, page in pairs:
        if name not in HEIGHTS or not is_pair:
            sys.exit(f"{name}: no picture of the gallery. Allowed: {', '.join(f'{n}=PAGE' for n in HEIGHTS)}.")
        if not page.startswith("http") and not Path(page).is_file():
            sys.exit(f"{name}: there is no page {page}; give a file or an address.")
    browser = os.environ.get("EXPUNGE_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("There is no chromium: apt-get install chromium, or give its path in EXPUNGE_BROWSER.")
    out = []
    for name, _, page in pairs:
        file = folder / f"{name}.png"
        address = page if page.startswith("http") else Path(page).resolve().as_uri()
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--virtual-time-budget={DRAWN_MS}"]
        options += [f"--window-size={WIDTH},{HEIGHTS[name]}", f"--screenshot={file}"]
        subprocess.run([browser, *options, address], check=True, capture_output=True, timeout=300)
        out.append(file)
    return out


if __name__ == "__main__":
    for picture in take_pictures(sys.argv[1:]):
        print(picture)
