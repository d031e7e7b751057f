"""The pictures of the gallery: the script has a size for each, and names a wrong argument."""

from __future__ import annotations

import pytest

import take_pictures


def test_every_picture_has_a_size() -> None:
    assert {file.stem for file in take_pictures.PICTURES.glob("*.png")} == set(take_pictures.HEIGHTS)


@pytest.mark.parametrize(
    ("word", "message"),
    [("other=x.html", "other: no picture"), ("grid", "grid: no picture"), ("grid=no.html", "there is no page no.html")],
)
def test_a_wrong_argument_is_named(word: str, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        take_pictures.take_pictures([word])
