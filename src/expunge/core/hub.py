"""Upload models and results to the Hugging Face Hub, each with a card. Texts of data are never uploaded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from expunge.core.errors import ConfigError, JobError

Kind = Literal["model", "dataset"]
CARD = "README.md"
_WRAPPER, _TEMPLATES = "wrapper.json", "additional_chat_templates"
# Files of a model. Measurements next to them contain generations of the forget rows, so they stay.
_MODEL = re.compile(
    r".*\.(safetensors|safetensors\.index\.json|model|tiktoken|jinja|py)"
    r"|(config|generation_config|adapter_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|"
    r"chat_template|preprocessor_config|wrapper)\.json|merges\.txt|vocab\.txt"
)


def check_repository(name: str, option: str = "--push") -> None:
    """Raise ConfigError for a text that names no repository."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise ConfigError(f"{option}: {name!r} names no repository; write OWNER/NAME, such as me/forgetful") from None


def model_subfolders(folder: Path) -> list[str]:
    """Return the names of a model folder's subfolders that belong to the model.

    These are the chat templates of its tokenizer, and the helper models that its wrapper.json names.
    """
    try:
        helpers = list(json.loads((folder / _WRAPPER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        helpers = []  # loading reports a damaged file
    names = [name for name in map(str, helpers) if name.isidentifier()]
    return sorted(name for name in (_TEMPLATES, *names) if (folder / name).is_dir())


def whole_model(folder: Path) -> list[Path]:
    """Return the files of a folder and of the subfolders that belong to its model."""
    places = [folder, *(folder / name for name in model_subfolders(folder))]
    return sorted(file for place in places for file in place.iterdir() if file.is_file())


def model_files(folder: Path) -> dict[str, Path]:
    """Return the files of a model folder that are uploaded, by name: weights, settings and tokenizer."""
    files = [file for file in whole_model(folder) if _MODEL.fullmatch(file.name)]
    return {file.relative_to(folder).as_posix(): file for file in files}


def upload(
    name: str, kind: Kind, files: Mapping[str, Path], card: str, *, public: bool = False, option: str = "--push"
) -> str:
    """Upload files and a card in one commit. Creates the repository, private unless `public`, if it is missing.

    Returns:
        The address of the repository.

    Raises:
        JobError: The hub cannot be reached, or refuses the files.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub import errors as hub_errors

    contents: dict[str, Path | bytes] = {**files, CARD: card.encode()}
    operations = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=source) for path, source in contents.items()]
    refusals = (OSError, ValueError, getattr(hub_errors, "HTTPError", OSError))
    try:
        api = HfApi()
        address = api.create_repo(name, repo_type=kind, private=not public, exist_ok=True)
        api.create_commit(name, operations, commit_message="Upload by expunge", repo_type=kind)
    except refusals as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise JobError(
            f"{option}: {name} was not uploaded: {reason}; the local result is complete: run the same command again "
            "(`hf auth login` gives access)"
        ) from None
    return str(address)


def card(title: str, tags: Sequence[str], about: Iterable[str], facts: Mapping[str, str], more: str = "") -> str:
    """Return the text of a card: a head for the hub, paragraphs, a list of facts, and further markdown."""
    head = ["---", f"tags: [{', '.join(['expunge', *tags])}]", "---", "", f"# {title}", ""]
    lines = [f"- **{name}**: {' '.join(value.split())}" for name, value in facts.items() if value]
    return "\n".join([*head, *(f"{text}\n" for text in about), *lines, "", more]).rstrip() + "\n"
