"""Write a small vocabulary in SentencePiece's file format, for tests."""

from __future__ import annotations

import struct
from collections.abc import Sequence

Piece = tuple[str, float, int]
BYTES: list[Piece] = [(f"<0x{b:02X}>", 0.0, 6) for b in range(256)]
HEAD: list[Piece] = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *BYTES]


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def model_file(merged: Sequence[str], letters: str, *, kind: int = 2, rules: bytes = b"") -> bytes:
    """Return a BPE vocabulary: bytes, then the merged pieces by rank, then single characters."""
    own = [(piece, -float(i), 1) for i, piece in enumerate(merged)]
    own += [(letter, -float(len(merged) + i), 1) for i, letter in enumerate(letters)]
    out = b""
    for piece, score, which in [*HEAD, *own]:
        content = field(1, piece.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score)
        out += field(1, content + (field(3, which) if which != 1 else b""))
    trainer = field(3, kind) + field(35, 1) + field(40, 0) + field(41, 1) + field(42, 2)
    return out + field(2, trainer) + field(3, field(1, b"identity") + (field(2, rules) if rules else b""))
