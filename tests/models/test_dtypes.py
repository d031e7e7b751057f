from __future__ import annotations

from pathlib import Path

import pytest
import torch

from expunge.models import dtypes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 vaes\n", True),
        ("flags\t\t: fpu avx512f amx_bf16\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t\t: fpu avx2 fma\nmodel name: bf16\n", False),
    ],
)
def test_instructions_are_read_from_the_flags(
    text: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(dtypes, "CPUINFO", tmp_path / "cpuinfo")
    assert dtypes.cpu_has_bfloat16.__wrapped__() is expected


@pytest.mark.parametrize("has", [True, False])
def test_torch_is_asked_without_such_a_file(has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtypes, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has, raising=False)
    assert dtypes.cpu_has_bfloat16.__wrapped__() is has


@pytest.mark.parametrize("has", [True, False])
def test_notes_say_what_a_cpu_computes_in(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtypes, "cpu_has_bfloat16", lambda: has)
    notes = dtypes.training_note("cpu", True), dtypes.scoring_note("cpu", "bfloat16")
    assert all(note and "\n" not in note for note in notes)
    assert all((dtypes.NO_INSTRUCTIONS in str(note)) != has for note in notes)
    assert dtypes.training_note("cuda", True) is dtypes.training_note("cpu", False) is None
    assert dtypes.scoring_note("cuda", "bfloat16") is dtypes.scoring_note("cpu", "float32") is None


@pytest.mark.parametrize("has", [True, False])
def test_a_report_says_what_was_computed_in_bfloat16(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dtypes, "cpu_has_bfloat16", lambda: has)
    (trained,) = dtypes.arithmetic_notes("cpu", bf16=True)
    assert ("bfloat16 over float32 weights" in trained) is has
    assert (dtypes.NO_INSTRUCTIONS in trained) is not has
    assert dtypes.arithmetic_notes("cpu", dtype="bfloat16") == [
        "Scores and generations were computed in bfloat16 on a CPU."
    ]
    assert dtypes.arithmetic_notes("cpu") == dtypes.arithmetic_notes("cuda", bf16=True, dtype="bfloat16") == []
