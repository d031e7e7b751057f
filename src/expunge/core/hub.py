"""The Hugging Face Hub: whether it can be reached, and uploads of models and results, each with a card.

Texts of data are never uploaded.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from expunge.core.errors import ConfigError, JobError, one_line

Kind = Literal["model", "dataset"]
CARD = "README.md"
REACH_S = 5.0  # the longest wait for the hub's first answer
AGAIN_S = 60.0  # the time after which the hub gets a request again
_answered: tuple[float, bool] | None = None  # the time of the last request, and whether the hub has answered


def unreachable_errors() -> tuple[type[Exception], ...]:
    """Return the errors of a hub that cannot be reached or refuses, and of a file that the cache lacks."""
    from huggingface_hub.errors import HfHubHTTPError

    return OSError, HfHubHTTPError.__mro__[1]  # of the HTTP library, which depends on the version of huggingface_hub


@contextmanager
def cache_if_unreachable() -> Iterator[None]:
    """Read the local cache alone in this context if the hub does not answer.

    The libraries of the hub would ask five times for each file, which takes minutes.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or _answers():
        yield
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = False


def _answers() -> bool:
    """Return whether the hub answers one short request, with any answer."""
    global _answered
    if _answered is None or time.monotonic() - _answered[0] > AGAIN_S:
        from huggingface_hub import constants
        from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

        try:
            get_session().head(constants.ENDPOINT, timeout=REACH_S)
            _answered = time.monotonic(), True
        except unreachable_errors():
            _answered = time.monotonic(), False
    return _answered[1]


def check_repository(name: str, option: str = "--push") -> None:
    """Raise ConfigError for a text that names no repository."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError:
        raise ConfigError(f"{option}: {name!r} names no repository; write OWNER/NAME, such as me/forgetful") from None


def create(name: str, kind: Kind, *, private: bool | None, option: str, complete: str) -> str:
    """Create a repository if it is missing, and return its address. Raises JobError, as `upload` does."""
    from huggingface_hub import HfApi

    with _errors_of_uploads(name, option, complete):
        return str(HfApi().create_repo(name, repo_type=kind, private=private, exist_ok=True))


def upload(
    name: str,
    kind: Kind,
    files: Mapping[str, Path],
    card: str,
    *,
    private: bool | None = True,
    option: str = "--push",
    message: str = "Upload by expunge",
    complete: str = "the local result is complete: run the same command again",
) -> str:
    """Upload files and a card in one commit. Creates the repository if it is missing.

    Args:
        name: The repository, OWNER/NAME.
        kind: Whether it is of a model or a data set.
        files: Place in the repository -> file.
        card: The text of its README.md.
        option: The option or method that uploads, for errors.
        message: The message of the commit.
        private: Whether a new repository is private. None: the organisation's default.
        complete: The end of an error: the place of the result, and how to upload it.

    Returns:
        The address of the repository.

    Raises:
        JobError: The hub cannot be reached, or refuses the files.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    contents: dict[str, Path | bytes] = {**files, CARD: card.encode()}
    operations = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=source) for path, source in contents.items()]
    address = create(name, kind, private=private, option=option, complete=complete)
    with _errors_of_uploads(name, option, complete):
        HfApi().create_commit(name, operations, commit_message=message, repo_type=kind)
    return address


@contextmanager
def _errors_of_uploads(name: str, option: str, complete: str) -> Iterator[None]:
    """Turn an error of the hub in this context into a JobError: it cannot be reached, or refuses the files."""
    from huggingface_hub import errors as hub_errors

    try:
        yield
    except (OSError, ValueError, getattr(hub_errors, "HTTPError", OSError)) as error:
        reason = one_line(error)[:200]
        raise JobError(
            f"{option}: {name} was not uploaded: {reason}; {complete} (`hf auth login` gives access)"
        ) from None


def card(title: str, tags: Sequence[str], about: Iterable[str], facts: Mapping[str, str], more: str = "") -> str:
    """Return the text of a card: a head for the hub, paragraphs, a list of facts, and further markdown."""
    head = ["---", f"tags: [{', '.join(['expunge', *tags])}]", "---", "", f"# {title}", ""]
    lines = [f"- **{name}**: {' '.join(value.split())}" for name, value in facts.items() if value]
    return "\n".join([*head, *(f"{text}\n" for text in about), *lines, "", more]).rstrip() + "\n"
