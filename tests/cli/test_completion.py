"""`expunge completion`: each shell completes commands, methods, studies, keys and files."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.cli.main import main

Run = Callable[..., tuple[int, str, str]]

# The beginning of a command, and its last word after the Tab.
LINES = {
    "expunge unl": "unlearn",
    "expunge run study=quicks": "study=quickstart",
    "expunge run study=myst": "study=mystudy.yaml",
    "expunge run train.learning_r": "train.learning_rate=",
    "expunge run --qui": "--quiet",
    "expunge run study=quickstart methods=SimN": "methods=SimNPO",
    "expunge plan study=quickstart audits=quanti": "audits=quantize",
    "expunge plan benchmark=worl": "benchmark=world",
    "expunge unlearn trainer=SimN": "trainer=SimNPO",
    "expunge unlearn experiment=unlearn/tofu/tuned_N": "experiment=unlearn/tofu/tuned_NPO",
    "expunge help seeds.unl": "seeds.unlearn",
    "expunge help eras": "erase",
    "expunge help SimN": "SimNPO",
    "expunge list methods Sim": "SimNPO",
    "expunge erase --method SimN": "SimNPO",
    "expunge audit quanti": "quantize",
    "expunge erase --forget myst": "mystudy.yaml",
}
# Words that start a shell without files of the user, and words that it reads before the script.
SHELLS = {
    "bash": (["--norc", "--noprofile", "-i"], ""),
    "zsh": (["-f", "-i"], "autoload -Uz compinit; compinit -D -u; "),
}


@pytest.fixture(params=["bash", "zsh", "fish"])
def script(request: pytest.FixtureRequest, here: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, Path]:
    """A shell and its script, in a folder with a study file."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    assert main(["completion", request.param]) == 0
    (here / "script").write_text(capsys.readouterr().out)
    (here / "mystudy.yaml").touch()
    return request.param, here / "script"


def tabs(shell: str, script: Path, lines: list[str]) -> list[str]:
    """Type each line and a Tab into a shell. Returns the last word of each command that the shell then runs."""
    words, before = SHELLS[shell]
    terminal, other = pty.openpty()
    child = subprocess.Popen(
        [shell, *words],
        stdin=other,
        stdout=other,
        stderr=other,
        start_new_session=True,
        env={**os.environ, "TERM": "dumb", "HOME": str(script.parent)},
    )
    os.close(other)
    try:
        os.write(terminal, f'{before}source {script}; expunge() {{ echo "<$*>"; }}; echo REA""DY\n'.encode())
        read(terminal, rb"READY")
        results = []
        for line in lines:
            os.write(terminal, line.encode() + b"\t\n")
            results.append(read(terminal, rb"<([^>\r\n]*)>").split()[-1])
        return results
    finally:
        child.kill()
        child.wait()
        os.close(terminal)


def read(terminal: int, pattern: bytes) -> str:
    """Read until a pattern appears. Returns its last group. Raises TimeoutError after ten seconds."""
    output, end = b"", time.monotonic() + 10
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            output += os.read(terminal, 65536)
        if match := re.search(pattern, output):
            return match[match.lastindex or 0].decode()
    raise TimeoutError(output.decode(errors="replace")[-500:])


def test_a_tab_completes_the_word(script: tuple[str, Path]) -> None:
    shell, file = script
    if shell == "fish":
        code = f"source {file}; " + "; ".join(f"complete -C '{line}'; echo" for line in LINES)
        done = subprocess.run(["fish", "--no-config", "-c", code], capture_output=True, text=True, cwd=file.parent)
        offered = [words.split("\n") for words in done.stdout.removesuffix("\n\n").split("\n\n")]
        assert [min(words, key=len) for words in offered] == list(LINES.values()), (
            done.stderr
        )  # eras: erase_people, too
    else:
        assert tabs(shell, file, list(LINES)) == list(LINES.values())


def test_the_completion_of_bash_completes(expunge: Run, here: Path) -> None:
    """The script is run by bash itself, which splits words at "="."""
    _, script, _ = expunge("completion", "bash")
    (here / "complete.sh").write_text(script)
    lines = {"expunge pl": "plan", "expunge run study = quick": "quickstart", "expunge list methods NP": "NPO"}
    lines |= {"expunge audit saves/npo --audits rel": "relearn"}
    for line, expected in lines.items():
        words = line.split()
        code = (
            f"source ./complete.sh; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _expunge; echo ${{COMPREPLY[@]}}"
        )
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, cwd=here)
        assert expected in done.stdout.split()


@pytest.mark.parametrize(("shell", "words"), [("zsh", "compdef _expunge expunge"), ("fish", "complete -c expunge")])
def test_the_other_shells_have_a_script(shell: str, words: str, expunge: Run) -> None:
    code, out, _ = expunge("completion", shell)
    assert code == 0 and words in out and "study=quickstart" in out and "train.learning_rate=" in out
