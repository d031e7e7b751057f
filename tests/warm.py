"""A process that has imported the libraries, and runs scripts and commands in forks of itself.

A new interpreter imports torch, transformers and the package for seconds; a fork has them. The process computes nothing
itself, so that its forks may.

    python tests/warm.py serve SOCKET                 # the process; ends when its standard input does
    python -S -E tests/warm.py call SOCKET WORDS...   # the same as `python WORDS...`, in a fork
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import selectors
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

POLL_S = 0.02
CALL = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
function, arguments = pickle.load(sys.stdin.buffer)
function(*arguments)
"""


def warm_up() -> None:
    """Import the modules of a study, a training and an evaluation. The package goes first: it replaces some imports."""
    import expunge.cli.main
    import expunge.pipelines.study.handle
    import expunge.pipelines.study_jobs.work
    import expunge.training.in_memory.unlearn_trainer  # noqa: F401
    from expunge.core.on_use import import_model_base

    import_model_base()
    import pandas  # noqa: F401
    import plotly.graph_objects  # noqa: F401
    import rouge_score.rouge_scorer  # noqa: F401
    import scipy.stats  # noqa: F401
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast, Trainer  # noqa: F401


def serve(place: str) -> int:
    """Accept requests until the standard input ends. Returns the exit code."""
    warm_up()
    server = socket.socket(socket.AF_UNIX)
    server.bind(place)
    server.listen()
    selector = selectors.DefaultSelector()
    selector.register(server, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    waiting: dict[int, socket.socket] = {}
    while True:
        for key, _ in selector.select(POLL_S if waiting else None):
            if key.fileobj is not server:
                return 0
            caller, _ = server.accept()
            text, files, _, _ = socket.recv_fds(caller, 1 << 20, 3)
            child = os.fork()
            if child == 0:
                for one in (selector, server, caller, *waiting.values()):
                    one.close()
                leave(run(json.loads(text), files))
            waiting[child] = caller
            for file in files:
                os.close(file)
        for child in list(waiting):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                with contextlib.suppress(OSError), waiting.pop(child) as caller:
                    caller.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def run(request: Mapping[str, Any], files: Sequence[int]) -> int:
    """Run a program as a new interpreter does: `-c CODE`, `-m MODULE` or a file, with its words. Returns its code."""
    import runpy
    import traceback

    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    first, *words = request["words"]
    form, target = (first, words.pop(0)) if first in ("-c", "-m") else ("", first)
    sys.argv = [form or target, *words]
    paths = [str(Path(target).resolve().parent) if not form else request["folder"]]
    sys.path[:1] = [*paths, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    try:
        if form == "-c":
            exec(compile(target, "<string>", "exec"), {"__name__": "__main__"})
        elif form == "-m":
            runpy.run_module(target, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(target, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def leave(code: int) -> NoReturn:
    """End the fork as an interpreter ends, without the seconds in which that removes all objects."""
    import atexit
    import threading

    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def call(
    place: str, words: Sequence[str], files: Sequence[int], *, folder: str, environment: Mapping[str, str],
    timeout_s: float | None = None,
) -> int:  # fmt: skip
    """Run words in a fork of the process at a socket, with these standard files. Returns the exit code."""
    request = json.dumps({"words": list(words), "folder": folder, "environment": dict(environment)})
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(timeout_s)
        server.connect(place)
        socket.send_fds(server, [request.encode()], list(files))
        return int(server.recv(16) or b"-9")


def main(words: Sequence[str]) -> int:
    """Run the command line of this file."""
    if words[0] == "serve":
        return serve(words[1])
    return call(words[1], words[2:], (0, 1, 2), folder=os.getcwd(), environment=os.environ)


class Warm:
    """The process, as the tests use it."""

    def __init__(self, folder: Path) -> None:
        self.place = str(folder / "socket")
        self.process = subprocess.Popen([sys.executable, __file__, "serve", self.place], stdin=subprocess.PIPE)
        while not Path(self.place).exists():
            assert self.process.poll() is None, "the process with the imports has ended"
            time.sleep(POLL_S)

    @property
    def python(self) -> str:
        """The shell words that stand for `python`."""
        return shlex.join([sys.executable, "-S", "-E", __file__, "call", self.place])

    def run(
        self,
        words: Sequence[str],
        folder: Path,
        *,
        environment: Mapping[str, str] = os.environ,
        standard_input: bytes = b"",
        timeout_s: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        """Run `python WORDS...` in a folder, as subprocess.run does with the options capture_output and text."""
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3)]
            files[0].buffer.write(standard_input)
            files[0].seek(0)
            numbers = [file.fileno() for file in files]
            code = call(self.place, words, numbers, folder=str(folder), environment=environment, timeout_s=timeout_s)
            for file in files:
                file.seek(0)
            return subprocess.CompletedProcess(list(words), code, files[1].read(), files[2].read())

    def call_each(self, function: Callable[..., object], arguments: Sequence[tuple[Any, ...]]) -> None:
        """Call a function of a test file with each of some arguments, in processes that run side by side."""
        with ThreadPoolExecutor(len(arguments)) as threads:
            inputs = [pickle.dumps(sys.path) + pickle.dumps((function, one)) for one in arguments]
            ends = threads.map(lambda text: self.run(["-c", CALL], Path.cwd(), standard_input=text), inputs)
            assert not (errors := [done.stderr for done in ends if done.returncode]), "\n".join(errors)

    def end(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
