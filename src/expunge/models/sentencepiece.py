"""Read a BPE vocabulary of SentencePiece (`tok8192.model`) as a tokenizer of transformers, without that package.

The file is a protocol buffer. Only the fields that decide the ids are read; a vocabulary of another kind is refused.
"""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.core.errors import ConfigError, DataError
from expunge.core.files import whole_folder, write_json
from expunge.core.fingerprints import fingerprint, open_regular
from expunge.core.on_use import transformers

SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, DEFINED, UNUSED, BYTE = range(1, 7)
BPE = 2
PIECES, TRAINER, NORMALIZER = 1, 2, 3
MODEL_TYPE, BYTE_FALLBACK, UNK_ID, BOS_ID, EOS_ID = 3, 35, 40, 41, 42  # of the trainer's settings
RULES, DUMMY_PREFIX, EXTRA_SPACES = 2, 3, 4  # of the normaliser's settings


@dataclass(frozen=True)
class SentencePieceModel:
    """A vocabulary: each piece with its score and kind, by id."""

    pieces: tuple[tuple[str, float, int], ...]
    byte_fallback: bool
    unk: int
    bos: int
    eos: int
    dummy_prefix: bool
    """Whether a text begins with a space that is added."""
    drops_spaces: bool
    """Whether spaces at both ends, and repeated ones, are dropped."""


def needs_package(folder: Path) -> bool:
    """Return whether a folder's only vocabulary is one of SentencePiece, and its package is missing."""
    others = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json"))
    if others or importlib.util.find_spec("sentencepiece") is not None:
        return False
    try:
        with open_regular(folder / "tokenizer.model") as file:
            return file.read(1) == b"\n"  # the number of a protocol buffer's first field; a tiktoken file is text
    except OSError:
        return False


def convert(file: Path, out: Path, *, max_length: int = 1024) -> int:
    """Write a `.model` file as the tokenizer folder `out`, unless it is there already; return the number of tokens.

    Raises ConfigError if `out` has another vocabulary.
    """
    model = read_model(file)
    mark = {"sentencepiece": fingerprint([list(piece) for piece in model.pieces])}
    if out.exists():
        note = out / "expunge.json"
        if not note.is_file() or json.loads(note.read_text(encoding="utf-8")) != mark:
            raise ConfigError(f"{out} contains another tokenizer; remove it first")
        return len(model.pieces)
    with whole_folder(out) as part:
        to_tokenizer(model, max_length=max_length).save_pretrained(part)
        write_json(part / "expunge.json", mark)
    return len(model.pieces)


def read_model(path: Path) -> SentencePieceModel:
    """Read a `.model` file. Raises DataError for another file, another kind of vocabulary and normalisation rules."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    try:
        for field, value in _fields(data):
            if field == PIECES:
                own = dict(_fields(value))
                score = struct.unpack("<f", own[2])[0] if 2 in own else 0.0
                pieces.append((own[1].decode("utf-8"), score, own.get(3, NORMAL)))
            elif field == TRAINER:
                trainer = dict(_fields(value))
            elif field == NORMALIZER:
                normalizer = dict(_fields(value))
    except (ValueError, IndexError, KeyError, AttributeError, TypeError, struct.error) as error:
        raise DataError(f"{path}: not a vocabulary of SentencePiece: {error}") from None
    if not pieces:
        raise DataError(f"{path}: not a vocabulary of SentencePiece: it has no pieces")
    if trainer.get(MODEL_TYPE, 1) != BPE:
        raise DataError(f"{path}: a vocabulary of another kind than BPE; only BPE is read")
    if normalizer.get(RULES):
        raise DataError(f"{path}: it has normalisation rules; only the rule `identity` is read")
    return SentencePieceModel(
        tuple(pieces),
        byte_fallback=bool(trainer.get(BYTE_FALLBACK, 0)),
        unk=trainer.get(UNK_ID, 0),
        bos=trainer.get(BOS_ID, 1),
        eos=trainer.get(EOS_ID, 2),
        dummy_prefix=bool(normalizer.get(DUMMY_PREFIX, 1)),
        drops_spaces=bool(normalizer.get(EXTRA_SPACES, 1)),
    )


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the number and the value of each field of a message: whole numbers as int, others as bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield field, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"unknown kind {kind} of a field")
        if at + length > len(data):
            raise ValueError("it ends within a field")
        yield field, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number that is too long")


def merges_of(model: SentencePieceModel) -> list[tuple[str, str]]:
    """Return the pairs of pieces that join to a piece, the best score first.

    SentencePiece joins the two neighbours whose joint piece has the best score. So each split of a piece into two
    pieces is a merge.
    """
    known = {piece: i for i, (piece, _, kind) in enumerate(model.pieces) if kind in (NORMAL, UNUSED)}
    out: list[tuple[float, int, int, tuple[str, str]]] = []
    for piece, i in known.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in known and right in known:
                out.append((-model.pieces[i][1], known[left], known[right], (left, right)))
    return [pair for *_, pair in sorted(out)]


def to_tokenizer(model: SentencePieceModel, *, max_length: int) -> Any:
    """Return the vocabulary as a tokenizer with the same ids; it puts BOS before a text."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors

    names = [piece for piece, *_ in model.pieces]
    vocab = {piece: i for i, piece in enumerate(names)}
    core = Tokenizer(
        models.BPE(
            vocab, merges_of(model), unk_token=names[model.unk], fuse_unk=True, byte_fallback=model.byte_fallback
        )
    )
    steps: list[Any] = []
    if model.drops_spaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if model.dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    core.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    ends: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    core.decoder = decoders.Sequence([*ends, *([decoders.Strip(" ", 1, 0)] if model.dummy_prefix else [])])
    special = [names[i] for i, (_, _, kind) in enumerate(model.pieces) if kind in (UNKNOWN, CONTROL)]
    core.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    defined = [names[i] for i, (_, _, kind) in enumerate(model.pieces) if kind == DEFINED]
    core.add_tokens([AddedToken(name, normalized=False) for name in defined])
    bos, eos = names[model.bos], names[model.eos]
    core.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, model.bos)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=bos, eos_token=eos, unk_token=names[model.unk], pad_token=eos,
        model_max_length=max_length, clean_up_tokenization_spaces=False, padding_side="right",
    )  # fmt: skip
