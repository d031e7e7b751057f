"""The files of a model folder that belong to the model: copied with it, and uploaded."""

from __future__ import annotations

import re
from pathlib import Path

from expunge.models.config import model_subfolders

# Uploaded files. Measurements next to them contain generations of the forget rows, so they stay.
_MODEL = re.compile(
    r".*\.(safetensors|safetensors\.index\.json|model|tiktoken|jinja|py)"
    r"|(config|generation_config|adapter_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|"
    r"chat_template|preprocessor_config|wrapper)\.json|merges\.txt|vocab\.txt"
)


def whole_model(folder: Path) -> list[Path]:
    """Return the files of a folder and of the subfolders that belong to its model."""
    places = [folder, *(folder / name for name in model_subfolders(folder))]
    return sorted(file for place in places for file in place.iterdir() if file.is_file())


def model_files(folder: Path) -> dict[str, Path]:
    """Return the files of a model folder that are uploaded, by name: weights, settings and tokenizer."""
    files = [file for file in whole_model(folder) if _MODEL.fullmatch(file.name)]
    return {file.relative_to(folder).as_posix(): file for file in files}
