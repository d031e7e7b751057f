"""Weights kept as their difference from the model they were made of, without loss: the same bytes come back.

A tensor's bits are read as whole numbers. Training moves most weights little, so the differences (modulo 2^bits, folded
so that small negative ones are small too) have high bytes that are nearly always 0; the bytes of one significance stand
together, and zstd takes each such plane on its own. Tensors that the parent has not, or in another shape, are taken as
they are.

A `.delta` file is: the length of a JSON header (8 bytes, little-endian), the header, the compressed planes one after
the other. The header holds the safetensors header of the weights as it stood, and the SHA-256 of both files.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from expunge.core.errors import JobError
from expunge.core.files import write_parts
from expunge.core.fingerprints import file_sha256

SUFFIX = ".delta"
LEVEL = 3
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
Numbers = npt.NDArray[Any]


def pack(weights: Path, parent: Path, out: Path) -> None:
    """Write the difference of one safetensors file from another. Raises JobError for a file that is none."""
    head, begin, tensors = _layout(weights)
    _, parent_begin, parents = _layout(parent)
    mine, theirs = (np.memmap(p, dtype=np.uint8, mode="r") for p in (weights, parent))
    codec = pa.Codec("zstd", compression_level=LEVEL)
    blocks: list[bytes] = []
    planes: list[dict[str, Any]] = []
    for name, (dtype, shape, first, end) in tensors.items():
        width = _BYTES.get(dtype, 1)
        other = parents.get(name)
        has = other is not None and other[:2] == (dtype, shape)
        numbers = mine[begin + first : begin + end].view(_UNSIGNED[width])
        if other is not None and has:
            numbers = _fold(numbers - theirs[parent_begin + other[2] : parent_begin + other[3]].view(_UNSIGNED[width]))
        sizes = []
        for plane in numbers.view(np.uint8).reshape(-1, width).T:
            blocks.append(codec.compress(np.ascontiguousarray(plane), asbytes=True))
            sizes.append(len(blocks[-1]))
        planes.append({"name": name, "width": width, "differs": has, "sizes": sizes})
    header = {
        "version": 1,
        "sha256": file_sha256(weights),
        "parent_sha256": file_sha256(parent),
        "header": head.decode(),
        "planes": planes,
    }
    write_parts(out, [_framed(json.dumps(header).encode()), *blocks])


def unpack(delta: Path, parent: Path, out: Path) -> None:
    """Write the weights again, bit for bit. Raises JobError if the delta or its parent is not what it was."""
    header, begin = _header(delta)
    if file_sha256(parent) != header["parent_sha256"]:
        raise JobError(f"{delta}: {parent} is not the model it was taken from")
    _, parent_begin, parents = _layout(parent)
    theirs = np.memmap(parent, dtype=np.uint8, mode="r")
    data = np.memmap(delta, dtype=np.uint8, mode="r")
    head = header["header"].encode()
    tensors = _tensors(head)
    codec = pa.Codec("zstd")

    def parts() -> Iterator[bytes]:
        at = begin
        yield _framed(head)
        for plane in header["planes"]:
            _, _, first, end = tensors[plane["name"]]
            width = plane["width"]
            n = (end - first) // width
            found = np.empty((n, width), dtype=np.uint8)
            for column, size in enumerate(plane["sizes"]):
                found[:, column] = _plane(codec, data[at : at + size].tobytes(), n)
                at += size
            numbers = found.reshape(-1).view(_UNSIGNED[width])
            if plane["differs"]:
                _, _, low, high = parents[plane["name"]]
                numbers = _unfold(numbers) + theirs[parent_begin + low : parent_begin + high].view(_UNSIGNED[width])
            yield numbers.tobytes()

    def checked() -> Iterator[bytes]:
        sha = hashlib.sha256()
        for part in parts():
            sha.update(part)
            yield part
        if sha.hexdigest() != header["sha256"]:  # before the file appears
            raise JobError(f"{delta} is damaged: what it holds has not the checksum of the weights")

    try:
        write_parts(out, checked())
    except (KeyError, ValueError) as error:
        raise JobError(f"{delta} is damaged: {' '.join(str(error).split())}") from None


def _plane(codec: pa.Codec, data: bytes, n: int) -> Numbers:
    """n bytes that were compressed. Raises ValueError."""
    try:
        return np.frombuffer(codec.decompress(data, n), dtype=np.uint8)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(str(error)) from None


def _fold(numbers: Numbers) -> Numbers:
    """Differences modulo 2^bits with the sign in the lowest bit: 0, -1, 1, -2, ... become 0, 1, 2, 3, ..."""
    bits = numbers.dtype.itemsize * 8
    one = numbers.dtype.type(1)
    negative = numbers >> numbers.dtype.type(bits - 1)
    folded: Numbers = (numbers << one) ^ (~negative + one)
    return folded


def _unfold(numbers: Numbers) -> Numbers:
    one = numbers.dtype.type(1)
    plain: Numbers = (numbers >> one) ^ (~(numbers & one) + one)
    return plain


def _framed(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


def _layout(weights: Path) -> tuple[bytes, int, dict[str, tuple[str, list[int], int, int]]]:
    """A safetensors file's header as it stands, where its data begin, and its tensors in the order of their data."""
    try:
        with open(weights, "rb") as f:
            (n,) = struct.unpack("<Q", f.read(8))
            head = f.read(n)
        return head, 8 + n, _tensors(head)
    except (OSError, struct.error, ValueError, KeyError, TypeError) as error:
        raise JobError(f"{weights}: not a safetensors file: {' '.join(str(error).split())}") from None


def _tensors(head: bytes) -> dict[str, tuple[str, list[int], int, int]]:
    """name -> (type, shape, first byte, end), in the order of the data, which leave no gap."""
    found = {
        k: (v["dtype"], v["shape"], *v["data_offsets"]) for k, v in json.loads(head).items() if k != "__metadata__"
    }
    ordered = dict(sorted(found.items(), key=lambda item: (item[1][2], item[1][3])))
    at = 0
    for name, (_, _, first, end) in ordered.items():
        if first != at:
            raise ValueError(f"there is a gap before {name}")
        at = end
    return ordered


def _header(delta: Path) -> tuple[dict[str, Any], int]:
    try:
        with open(delta, "rb") as f:
            (n,) = struct.unpack("<Q", f.read(8))
            header = json.loads(f.read(n))
        if header["version"] != 1:
            raise ValueError(f"version {header['version']}")
        return header, 8 + n
    except (OSError, struct.error, ValueError, KeyError, TypeError) as error:
        raise JobError(f"{delta}: not a delta: {' '.join(str(error).split())}") from None
