"""A judge from plain settings: one of `rules`, `classifier`, `http` and `model`, with its settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.core.decode import decode
from expunge.core.errors import ConfigError, nearest
from expunge.core.fingerprints import file_sha256
from expunge.core.on_use import ModuleOnUse
from expunge.judges.api import Judge
from expunge.judges.http import HttpJudge, HttpJudgeConfig, check_package
from expunge.judges.local import LocalJudge, LocalJudgeConfig
from expunge.judges.rules import RuleJudge
from expunge.models.config import check_source
from expunge.models.identity import source_identity
from expunge.models.load import check_tokenizer

if TYPE_CHECKING:
    from expunge.judges import classifier
else:
    classifier = ModuleOnUse("expunge.judges.classifier")

REVISION = 1  # raise it when a judge's prompt or its reading of an answer changes
UNKEYED = ("api_key_env", "timeout_s", "retries", "workers", "cache", "device", "batch_tokens")


@dataclass(frozen=True)
class JudgeChoice:
    """A judge's kind and its decoded settings. It reads no key, no model and no network."""

    kind: str
    config: Any

    @property
    def identity(self) -> dict[str, Any]:
        """The part of a key: kind, revision, the settings that decide scores, and the contents of files."""
        out: dict[str, Any] = {"kind": self.kind, "revision": REVISION}
        if self.kind == "classifier":
            files = sorted(p for p in Path(self.config).iterdir() if p.is_file())
            return {**out, "files": {p.name: file_sha256(p) for p in files}}
        args = {k: v for k, v in dataclasses.asdict(self.config).items() if k not in UNKEYED}
        if self.kind == "model":
            args["model"] = source_identity(self.config.model, None)
        return {**out, "args": args}

    def make(self) -> Judge:
        """Return the judge. Raises ConfigError for a missing key, folder or model."""
        make: Mapping[str, Callable[[Any], Judge]] = {
            "rules": lambda config: config,
            "classifier": lambda folder: classifier.load_classifier(folder),
            "http": HttpJudge,
            "model": LocalJudge,
        }
        return make[self.kind](self.config)


CONFIGS: Mapping[str, Any] = {"rules": RuleJudge, "http": HttpJudgeConfig, "model": LocalJudgeConfig}
KINDS = (*CONFIGS, "classifier")


def choose_judge(settings: Mapping[str, Any], where: str) -> JudgeChoice:
    """Decode `{kind: settings}`. Raises ConfigError, with the key, if a kind or a setting is wrong."""
    if len(settings) != 1:
        raise ConfigError(f"{where}: expected one of {', '.join(KINDS)}, got {sorted(settings)}")
    ((kind, value),) = settings.items()
    if kind not in KINDS:
        raise ConfigError(f"{where}.{kind}: no kind of judge{nearest(kind, KINDS)}")
    return judge_of(kind, value, f"{where}.{kind}")


def judge_of(kind: str, value: Any, where: str = "") -> JudgeChoice:
    """Decode the settings of one kind of judge. Raises ConfigError with the key."""
    where = where or kind
    if kind == "classifier":
        folder = Path(str(value)).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"{where}: {folder}: not a saved classifier: no such folder")
        return JudgeChoice(kind, folder)
    config = decode(CONFIGS[kind], value, where=where)
    if isinstance(config, LocalJudgeConfig):
        check_source(config.model, f"{where}.model")  # before its files are read for a key
        check_tokenizer(config.model, f"{where}.model")
    if isinstance(config, HttpJudgeConfig):
        check_package()
    return JudgeChoice(kind, config)
