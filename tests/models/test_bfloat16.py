from __future__ import annotations

from pathlib import Path

import pytest
import torch

from expunge.models import bfloat16


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 vaes\n", True),
        ("flags\t\t: fpu avx512f amx_bf16\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t\t: fpu avx2 fma\nmodel name: bf16\n", False),
        (None, False),
    ],
)
def test_instructions_are_read_from_the_flags(
    text: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(bfloat16, "CPUINFO", tmp_path / "cpuinfo")
    assert bfloat16.cpu_has_bfloat16.__wrapped__() is expected


def test_torch_is_asked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert bfloat16.cpu_has_bfloat16.__wrapped__()


@pytest.mark.parametrize("has", [True, False])
def test_notes_say_what_a_cpu_computes_in(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfloat16, "cpu_has_bfloat16", lambda: has)
    notes = bfloat16.training_note("cpu", True), bfloat16.scoring_note("cpu", "bfloat16")
    assert all(note and "\n" not in note for note in notes)
    assert all((bfloat16.NO_INSTRUCTIONS in str(note)) != has for note in notes)
    assert bfloat16.training_note("cuda", True) is bfloat16.training_note("cpu", False) is None
    assert bfloat16.scoring_note("cuda", "bfloat16") is bfloat16.scoring_note("cpu", "float32") is None
