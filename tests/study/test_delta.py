"""Lossless differences of weights: what comes back has the same bytes, whatever was in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from expunge.core.errors import JobError
from expunge.study.delta import _fold, _unfold, pack, unpack


def files(folder: Path, mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> tuple[Path, Path, Path]:
    save_file(theirs, folder / "parent.safetensors", metadata={"format": "pt"})
    save_file(mine, folder / "mine.safetensors", metadata={"format": "pt"})
    return folder / "mine.safetensors", folder / "parent.safetensors", folder / "mine.delta"


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.int64]
)
def test_the_same_bytes_come_back(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = {
        "a": torch.randn(50, 33).mul(20).to(dtype),
        "b": torch.randn(7).to(dtype),
        "same": torch.ones(9, dtype=dtype),
    }
    mine = {**start, "a": (start["a"].double() * 1.001).to(dtype), "new": torch.randn(3, 5).to(dtype)}
    mine |= {"b": torch.randn(8).to(dtype), "none": torch.zeros(0, 4, dtype=dtype)}  # another shape, and nothing
    weights, parent, delta = files(tmp_path, mine, start)
    pack(weights, parent, delta)
    unpack(delta, parent, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == weights.read_bytes()


def test_odd_numbers_come_back_too(tmp_path: Path) -> None:
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1e-45, -3.4e38])
    weights, parent, delta = files(tmp_path, {"a": odd}, {"a": odd.flip(0).contiguous()})
    pack(weights, parent, delta)
    unpack(delta, parent, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == weights.read_bytes()


def test_small_changes_take_little_room(tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = torch.randn(200_000)
    weights, parent, delta = files(tmp_path, {"a": start * (1 + 1e-5 * torch.randn(200_000))}, {"a": start})
    pack(weights, parent, delta)
    # a change of 1e-5 is about 2^7 to 2^8 units in the last place of float32: one byte and a little of four
    assert delta.stat().st_size < 0.45 * weights.stat().st_size
    weights, parent, delta = files(tmp_path, {"a": start}, {"a": start})
    pack(weights, parent, delta)
    assert delta.stat().st_size < 0.002 * weights.stat().st_size


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**16 - 1), max_size=20))
def test_folding_is_one_to_one_and_small_differences_are_small(values: list[int]) -> None:
    numbers = np.array(values, dtype=np.uint16)
    assert np.array_equal(_unfold(_fold(numbers)), numbers)
    near = np.array([0, -1, 1, -2, 2], dtype=np.int16).view(np.uint16)
    assert _fold(near).tolist() == [0, 1, 2, 3, 4]


def test_what_is_not_as_it_was_is_refused(tmp_path: Path) -> None:
    weights, parent, delta = files(tmp_path, {"a": torch.ones(100)}, {"a": torch.zeros(100)})
    pack(weights, parent, delta)
    whole = delta.read_bytes()
    with pytest.raises(JobError, match="is not the model it was taken from"):
        unpack(delta, weights, tmp_path / "back")
    for spoiled in (whole[:-20] + b"\0" * 20, whole[:-3]):
        delta.write_bytes(spoiled)
        with pytest.raises(JobError, match="is damaged"):
            unpack(delta, parent, tmp_path / "back")
    delta.write_bytes(b"short")
    with pytest.raises(JobError, match="not a delta"):
        unpack(delta, parent, tmp_path / "back")
    with pytest.raises(JobError, match="not a safetensors file"):
        pack(delta, parent, tmp_path / "other")
    assert not (tmp_path / "back").exists()
