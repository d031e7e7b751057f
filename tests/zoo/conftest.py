"""The zoo: models and tokenizers of many kinds, held against plain transformers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import transformers

torch.set_num_threads(1)  # models this small only lose time to more threads
transformers.logging.set_verbosity_error()


@pytest.fixture(scope="session")
def vocabularies() -> Path:
    """The folder of real tokenizers, `tokenizers/NAME/`; tests that read it skip if it is not named."""
    named = os.environ.get("EXPUNGE_VOCABULARIES")
    if not named:
        pytest.skip("EXPUNGE_VOCABULARIES names no folder of real tokenizers")
    return Path(named)
