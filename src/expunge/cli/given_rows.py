"""The words that commands on your own rows and one model share: `expunge erase` and `expunge audit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from expunge.core.errors import ConfigError

ROWS = "csv, JSON, JSON lines or parquet; of a .txt file each paragraph, or else each line, is a text"
# Settings of a study that both commands decide themselves, with the words to type instead.
OWN_SETTINGS: dict[str, str] = {
    "meta": "it is for a study of many models",
    "store": "the output folder stores the files that a run needs to continue",
    "launch": "its jobs run one after another",
    "paths": "give --out",
    "benchmark": "the rows come from --forget and --retain",
    "forget": "give --forget",
    "retain": "give --retain",
    "data.args.train_full": "the model knows the rows already",
    "data.args.holdout": "give --holdout",
    "data.request": "give a file of only these rows by --forget",
}


def refuse_settings(words: Sequence[str], refused: Mapping[str, str], command: str) -> None:
    """Raise ConfigError for a `key=value` word that sets something that a command decides itself."""
    for word in words:
        key, is_pair, _ = word.lstrip("+~").partition("=")
        own = next((k for k in refused if key == k or key.startswith(f"{k}.")), None) if is_pair else None
        if own is not None:
            raise ConfigError(f"{key}: `{command}` does not read it; {refused[own]}")


def model_words(model: str) -> list[str]:
    """Return the settings that select a model: a shipped name, a folder or a hub id.

    Raises ConfigError for a preset, which has no weights.
    """
    from expunge.cli.compose import PLAIN_MODEL, options
    from expunge.models.config import MODEL_KEY, refuse_preset

    refuse_preset(model, "--model")
    return [f"model={model}"] if model in options("model") else [f"model={PLAIN_MODEL}", f"{MODEL_KEY}={model}"]


def model_source(model: str, key: str = "--model") -> str:
    """Return the folder or hub id of a model, which may be a shipped name.

    key: the option that names it, for the error. Raises ConfigError for a preset, which has no weights.
    """
    from expunge.cli.compose import options, study_tree
    from expunge.models.config import refuse_preset

    refuse_preset(model, key)
    if model not in options("model"):
        return model
    tree = study_tree(["study=custom", "forget=-", f"model={model}"])
    return str(tree["model"]["model_args"]["pretrained_model_name_or_path"])
