"""A small folder of generated stories, and tokenizers learnt from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expunge.data.stories.generate import StoriesConfig, generate, generated
from expunge.data.stories.text import LINES, render
from expunge.data.transforms.draws import Draws
from expunge.models.build import train_tokenizer

CONFIG = StoriesConfig(n=240, seed=5, shards=6)


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 stories in 6 shards."""
    folder = tmp_path_factory.mktemp("stories") / "made"
    assert generate(CONFIG, folder)
    return folder


def _tokenizer(folder: Path, **how: Any) -> Any:
    texts = [render(s, LINES, Draws(0, s.record_id)) for s in generated(CONFIG)]
    tokenizer = train_tokenizer(texts, 600, max_length=512, **how)
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture(scope="session")
def by_line(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A tokenizer whose line breaks stand alone, and its folder."""
    folder = tmp_path_factory.mktemp("by_line")
    return _tokenizer(folder, by_line=True), folder


@pytest.fixture(scope="session")
def across(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """One that may join a line break with what stands beside it."""
    folder = tmp_path_factory.mktemp("across")
    return _tokenizer(folder), folder
