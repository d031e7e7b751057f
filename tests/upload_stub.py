"""A stand-in for the hub, which keeps the files of uploads."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Hub:
    """A hub that keeps what it is given."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.refusal: Exception | None = None  # of a repository
        self.commit_refusal: Exception | None = None

    def create_repo(self, name: str, **settings: Any) -> str:
        if self.refusal:
            raise self.refusal
        self.created.append({"name": name, **settings})
        return f"https://hub.example/{name}"

    def write(self, folder: Path) -> Path:
        """Write the files into a folder, as a download does."""
        for name, content in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder

    def create_commit(self, name: str, operations: list[Any], **settings: Any) -> None:
        if self.commit_refusal:
            raise self.commit_refusal
        for operation in operations:
            source = operation.path_or_fileobj
            self.files[operation.path_in_repo] = source if isinstance(source, bytes) else Path(source).read_bytes()
