"""Jobs as a JSON file: a worker or a Slurm task receives its jobs, and does not plan the study.

The file holds each job of a subgraph once, by key, with its parents by key. Shared values appear once
under `values`. Plugins are loaded first, then the modules that define the job types are imported. A job is decoded on
request, together with its ancestors, and must then have the key of the file.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from expunge.core.errors import ConfigError, nearest, one_line
from expunge.core.files import write_json
from expunge.core.plugins import load_plugins
from expunge.engine.job import SHARED, STORED, Job, in_order, job_types

VERSION = 1
REF = "$value"  # marks a shared value by its fingerprint


class JobFile:
    """Jobs in serialised form. tasks: lists of job keys, one list for each task of an array."""

    def __init__(self, tree: Mapping[str, Any], where: str = "job file") -> None:
        self._tree, self._where = tree, where
        self._jobs: dict[str, Job] = {}
        self._values: dict[tuple[str, str, str], Any] = {}

    @classmethod
    def of(
        cls, jobs: Iterable[Job], *, plugins: Sequence[str] = (), tasks: Sequence[Sequence[str]] = (), store: str = ""
    ) -> JobFile:
        """Serialise jobs with all their ancestors.

        Args:
            jobs: The jobs.
            plugins: Python files to load before the jobs are decoded.
            tasks: Keys of the jobs of each task.
            store: The folder of the store that the tasks write to.

        Raises:
            TypeError: A job has a field that cannot be serialised.
        """
        serialised = _Writer()
        ordered = in_order(jobs)
        records = {job.key: serialised.record(job) for job in ordered}
        return cls(
            {
                "version": VERSION,
                "plugins": list(plugins),
                "modules": sorted(set().union(*(job.modules for job in ordered))),
                "store": store,
                "tasks": [list(task) for task in tasks],
                "values": serialised.values,
                "jobs": records,
            }
        )

    @classmethod
    def read(cls, path: Path) -> JobFile:
        """Read a job file. Raises ConfigError if it is none, or of another version."""
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            whole = isinstance(tree, dict) and {"version", "plugins", "modules", "tasks", "values", "jobs"} <= set(tree)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: not a job file: {one_line(error)}") from None
        if not whole:
            raise ConfigError(f"{path}: not a job file")
        if tree["version"] != VERSION:
            raise ConfigError(f"{path}: a job file of version {tree['version']}, this program reads version {VERSION}")
        return cls(tree, str(path))

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        write_json(path, self._tree)

    @property
    def text(self) -> str:
        """The file's text, for another process."""
        return json.dumps(self._tree)

    @classmethod
    def of_text(cls, text: str) -> JobFile:
        """Read the value of `text`."""
        return cls(json.loads(text))

    @property
    def tasks(self) -> Sequence[Sequence[str]]:
        """The keys of the jobs of each task."""
        tasks: Sequence[Sequence[str]] = self._tree["tasks"]
        return tasks

    @property
    def store(self) -> str:
        """The folder of the store that the tasks write to."""
        return str(self._tree.get("store", ""))

    def prepare(self) -> None:
        """Load the plugins and import the modules of the job types. Raises ConfigError."""
        load_plugins(self._tree["plugins"])
        for name in self._tree["modules"]:
            try:
                importlib.import_module(name)
            except ImportError as error:
                raise ConfigError(f"{self._where}: cannot import {name}: {error}") from None

    def job(self, key: str) -> Job:
        """Decode one job and its ancestors.

        Raises:
            ConfigError: The file has no such job, or a field cannot be decoded. Or the decoded job has another key:
                another program or plugin wrote the file.
        """
        if key not in self._jobs:
            record = self._tree["jobs"].get(key)
            if record is None:
                raise ConfigError(f"{self._where}: no job with the key {key[:12]}")
            parents = {role: self.job(parent) for role, parent in record["parents"].items()}
            self._jobs[key] = job = self._decoded(record, parents)
            if job.key != key:
                raise ConfigError(
                    f"{self._where}: {job.name} has another key here ({job.key[:12]}, not {key[:12]}): this program or "
                    "a plugin differs from the one that planned it; plan again"
                )
        return self._jobs[key]

    def _decoded(self, record: Mapping[str, Any], parents: Mapping[str, Job]) -> Job:
        types = job_types()
        if record["type"] not in types:
            raise ConfigError(f"{self._where}: no job type {record['type']!r}{nearest(record['type'], types)}")
        cls = types[record["type"]]
        fields = {name: self._value(cls, name, value) for name, value in record["fields"].items()}
        return cls(**fields, parents=parents)

    def _value(self, cls: type[Job], name: str, value: Any) -> Any:
        """Return the value of a field. Decodes a shared value once."""
        adapters = _adapters(cls)  # type: ignore[arg-type]  # a class is hashable
        if name not in adapters:
            raise ConfigError(f"{self._where}: {cls.__name__} has no field {name!r}{nearest(name, adapters)}")
        adapter = adapters[name]
        try:
            if not (isinstance(value, dict) and set(value) == {REF}):
                return adapter.validate_python(value)
            at = (cls.__name__, name, value[REF])
            if at not in self._values:
                self._values[at] = adapter.validate_python(self._tree["values"][value[REF]])
            return self._values[at]
        except (ValidationError, KeyError) as error:
            raise ConfigError(f"{self._where}: {cls.__name__}.{name}: {one_line(error)}") from None


class _Writer:
    """Serialises jobs, each shared value once."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self._seen: dict[
            int, tuple[Any, str]
        ] = {}  # holds the values, because only the ids of living objects are unique

    def record(self, job: Job) -> dict[str, Any]:
        """Return one job: its type, its stored fields, its parents' keys."""
        fields: dict[str, Any] = {}
        for f in dataclasses.fields(job):
            if f.name == "parents":
                continue
            if not f.metadata.get(STORED, True):
                if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                    raise TypeError(f"{type(job).__name__}.{f.name} cannot be serialised: it belongs to one process")
                continue
            value = getattr(job, f.name)
            fields[f.name] = {REF: self._shared(value)} if f.metadata.get(SHARED) else plain(value)
        parents = {role: parent.key for role, parent in job.parents.items()}
        return {"type": type(job).__name__, "fields": fields, "parents": parents}

    def _shared(self, value: Any) -> str:
        if id(value) not in self._seen:
            written = plain(value)
            name = hashlib.sha256(json.dumps(written).encode()).hexdigest()[:32]
            self.values[name] = written
            self._seen[id(value)] = value, name
        return self._seen[id(value)][1]


def plain(value: Any) -> Any:
    """Return a value as plain JSON types, in the order of its mappings. Raises TypeError for other values.

    (`core.fingerprints.canonical` sorts mappings, and the order of keys shows in files that jobs write.)
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    raise TypeError(f"a job file cannot hold a {type(value).__name__}: {value!r}")


@functools.cache
def _adapters(cls: type[Any]) -> Mapping[str, TypeAdapter[Any]]:
    """Return the decoder of each stored field of a job type."""
    hints = get_type_hints(cls)
    stored = [f.name for f in dataclasses.fields(cls) if f.metadata.get(STORED, True) and f.name != "parents"]
    return {name: TypeAdapter(hints[name]) for name in stored}
