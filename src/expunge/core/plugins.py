"""Load methods, metrics and record kinds of your own: a file (`--plugin FILE.py`) or an installed package.

A package names an entry point in the group `expunge.plugins`. Loading a plugin registers its definitions.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

from expunge.core.errors import ConfigError, ExpungeError, nearest
from expunge.core.plugin_code import loading

GROUP = "expunge.plugins"
_LOADED: set[str] = set()  # the top-level modules of the loaded plugins


def load_plugins(files: Sequence[str]) -> None:
    """Import the entry points and then the files. Raises ConfigError with the plugin's name and its own error."""
    for point in sorted(entry_points(group=GROUP), key=lambda p: p.name):
        _LOADED.add(point.module.partition(".")[0])
        try:
            with loading(point.module):
                point.load()
        except Exception as error:
            raise ConfigError(f"plugin {point.name} ({point.value}): {_message(error)}") from error
    for name in files:
        _load_file(Path(name).expanduser())


def _load_file(path: Path) -> None:
    if not path.is_file():
        names = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise ConfigError(f"--plugin: no file {path}{nearest(path.name, names)}")
    module_name = f"expunge_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"--plugin: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses look their module up by name
    _LOADED.add(module_name)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # its own modules, which functions import later, too; installed packages come first
    try:
        with loading(module_name):
            spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"--plugin: {path}: {_message(error)}") from error


def place_in_plugin(error: BaseException) -> str | None:
    """Return the file and the line of a plugin at which an error was raised; None if no plugin took part.

    Of several lines it is the innermost one: an error that the package raises there comes from a call of the plugin.
    """
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] in _LOADED:
            return f"{frame.f_code.co_filename}, line {line}"
    return None


def _message(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, ExpungeError) else f"{type(error).__name__}: {text}"
