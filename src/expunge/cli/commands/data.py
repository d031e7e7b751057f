"""`expunge data`: probes of an audit, and the data of the stories study, from a source to shards of tokens."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.cli.commands.probes import add_probes
from expunge.core.errors import JobError
from expunge.core.terminal import say

if TYPE_CHECKING:
    from expunge.data.stories.text import StoryVariant

MOST_VOCABULARY = 1_000_000
MODEL = ".model"  # a vocabulary of SentencePiece
VOCABULARY_SHARDS = 10  # training shards that the vocabulary is learned from
RULES = {
    "filtering": ("KEY=VALUE,KEY!=VALUE", "keep the stories that meet all conditions; KEY: features, words, length"),
    "mix_match": ("KEY:OLD=NEW", "request NEW in place of OLD; the story stays"),
    "adversarial_training": ("KEY=VALUE:PROB", "request VALUE as well; the story stays"),
    "refusal": ("KEY=VALUE:PROB", "request VALUE as well, and replace the story by a refusal"),
    "instruction_subset": ("LINES", "the instruction lines to write, such as Words,Features; default: all four"),
}


def add_data(commands: Any) -> None:
    """Add `data` to the commands of a parser."""
    text = "create and prepare data"
    data = commands.add_parser("data", help=text, description=f"{text[0].upper()}{text[1:]}.")
    kinds = data.add_subparsers(title="data", required=True, metavar="DATA")
    add_probes(kinds)
    text = "stories with instructions: TinyStories, or stories made from a seed"
    stories = kinds.add_parser("stories", help=text, description=f"{text[0].upper()}{text[1:]}.")
    verbs = stories.add_subparsers(title="commands", required=True, metavar="COMMAND")

    sub = _verb(verbs, "import", _import, "read stories: an archive (.tar.gz), a folder, a file or a hub id")
    sub.add_argument("source", help="TinyStories_all_data (with instructions), or plain stories")
    sub.add_argument("--out", required=True, type=Path, metavar="DIR")
    sub.add_argument("--shards", type=int, help="default: the source's files; 11 if they are fewer than 3")
    sub.add_argument(
        "--compat",
        choices=("clean", "tinystories"),
        default="clean",
        help="tinystories: write the published code's texts",
    )

    sub = _verb(verbs, "generate", _generate, "generate stories with instructions from a seed")
    sub.add_argument("--n", default=20_000, type=int, help="how many (default: %(default)s)")
    sub.add_argument("--seed", default=0, type=int)
    sub.add_argument("--shards", default=11, type=int, help="files; the first is the test (default: %(default)s)")
    sub.add_argument(
        "--feature_probability", default=0.5, type=float, help="probability of each feature (default: %(default)s)"
    )
    sub.add_argument("--out", required=True, type=Path, metavar="DIR")
    _add_workers(sub)

    sub = _verb(verbs, "train-vocab", _train_vocab, "learn a vocabulary (byte-level BPE) from the stories")
    _add_in(sub)
    sub.add_argument("--vocab_size", default=8192, type=int, help="default: %(default)s")

    sub = _verb(verbs, "pretokenize", _pretokenize, "create one tokenised data set")
    _add_in(sub)
    for name, (metavar, does) in RULES.items():
        sub.add_argument(f"--{name}", metavar=metavar, help=does)
    sub.add_argument("--dataset_name", help="default: a name from the settings")
    _add_tokens(sub)

    sub = _verb(
        verbs, "protocol", _protocol, "create the ten data sets of a feature to delete and an irrelevant feature"
    )
    _add_in(sub, required=False)
    sub.add_argument("--delete", required=True, metavar="FEATURE")
    sub.add_argument("--irrelevant", required=True, metavar="FEATURE")
    sub.add_argument("--list", action="store_true", help="only print their names and settings")
    sub.add_argument("--json", action="store_true", help="print the list as JSON")
    _add_tokens(sub)


def _verb(verbs: Any, name: str, does: Callable[..., int], text: str) -> Any:
    sub = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", allow_abbrev=False)
    sub.set_defaults(command=lambda parsed, words: _or_one_line(does, parsed, words))
    return sub


def _or_one_line(does: Callable[..., int], parsed: argparse.Namespace, words: Sequence[str]) -> int:
    """Run a command and raise an error of the disk (full, read-only, no folder) as one line."""
    try:
        return does(parsed, words)
    except OSError as error:
        raise JobError(f"{error.filename or 'the disk'}: {error.strerror or error}") from None


def _add_in(sub: Any, *, required: bool = True) -> None:
    sub.add_argument(
        "--in", "--data_cache_dir", dest="folder", required=required, type=Path, metavar="DIR",
        help="the stories' folder, made by import or generate",
    )  # fmt: skip


def _add_workers(sub: Any) -> None:
    sub.add_argument("--workers", default=os.cpu_count() or 1, type=int, help="processes (default: %(default)s)")


def _add_tokens(sub: Any) -> None:
    sub.add_argument(
        "--vocab_size",
        default=8192,
        type=int,
        help="vocabulary size of train-vocab; 0: use --tokenizer (default: 8192)",
    )
    sub.add_argument(
        "--tokenizer", type=Path, metavar="DIR", help="a tokenizer's folder, with --vocab_size 0; or FILE.model"
    )
    sub.add_argument("--out", type=Path, metavar="DIR", help="folder of the data sets (default: tok{N} in --in)")
    sub.add_argument("--seed", default=0, type=int, help="seed of the random draws (default: %(default)s)")
    _add_workers(sub)


def _import(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.data.stories.gather import gather
    from expunge.data.stories.records import open_stories

    is_new = gather(parsed.source, parsed.out, shards=parsed.shards, compat=parsed.compat)
    return _print_folder(parsed.out, open_stories(parsed.out), is_new)


def _generate(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.core.decode import decode, field_names
    from expunge.data.stories.generate import StoriesConfig, generate
    from expunge.data.stories.records import open_stories

    settings = {name: getattr(parsed, name) for name in field_names(StoriesConfig)}
    is_new = generate(decode(StoriesConfig, settings), parsed.out, workers=_workers(parsed))
    return _print_folder(parsed.out, open_stories(parsed.out), is_new)


def _print_folder(folder: Path, stories: Any, is_new: bool) -> int:
    say(f"{stories.records} stories in {len(stories.shards)} shards: {folder}{'' if is_new else ' (exists already)'}")
    say(f"next:    expunge data stories train-vocab --in {shlex.quote(str(folder))} --vocab_size 2048")
    return 0


def _train_vocab(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.core.errors import ConfigError
    from expunge.core.files import whole_folder, write_json
    from expunge.core.fingerprints import fingerprint
    from expunge.data.stories.records import open_stories, read_shard, split_numbers
    from expunge.data.stories.text import LINES, render
    from expunge.data.transforms.draws import Draws

    if not 260 <= parsed.vocab_size <= MOST_VOCABULARY:
        raise ConfigError(
            f"--vocab_size: must be 260 (bytes and specials) to {MOST_VOCABULARY}, got {parsed.vocab_size}"
        )
    stories = open_stories(parsed.folder)
    shards = [stories.shards[n] for n in islice(split_numbers(len(stories.shards), "train"), VOCABULARY_SHARDS)]
    key = fingerprint({"shards": [s.sha256 for s in shards], "vocab_size": parsed.vocab_size})
    out = _tokenizer_folder(parsed.folder, parsed.vocab_size)
    if out.exists():
        note = out / "expunge.json"
        if not note.is_file() or json.loads(note.read_text(encoding="utf-8")).get("fingerprint") != key:
            raise ConfigError(f"--vocab_size: {out} holds a tokenizer of other stories; remove it first")
        say(f"{out} (exists already)")
        return 0
    from expunge.models.build import train_tokenizer

    texts = (render(s, LINES, Draws(0, s.record_id)) for shard in shards for s in read_shard(shard))
    tokenizer = train_tokenizer(texts, parsed.vocab_size, max_length=1024, by_line=True)
    with whole_folder(out) as part:
        tokenizer.save_pretrained(part)
        write_json(part / "expunge.json", {"fingerprint": key})
    say(f"{len(tokenizer)} tokens: {out}")
    words = ["--in", str(parsed.folder), "--vocab_size", str(parsed.vocab_size)]
    say(f"next:    expunge data stories pretokenize {shlex.join(words)}")
    return 0


def _tokenizer_folder(folder: Path, vocab_size: int) -> Path:
    return folder / "tokenizers" / f"bpe{vocab_size}"


def _chosen_tokenizer(parsed: argparse.Namespace) -> Path:
    """Return the tokenizer's folder. A vocabulary of SentencePiece is converted to one next to the stories, once.

    Without --tokenizer it is that of `train-vocab`, or else `tok{N}.model` in the stories' folder, where the published
    scripts expect it.
    """
    trained = _tokenizer_folder(parsed.folder, parsed.vocab_size)
    published = parsed.folder / f"tok{parsed.vocab_size}{MODEL}"
    tokenizer: Path | None = parsed.tokenizer
    if tokenizer is None and not trained.exists() and published.is_file():
        tokenizer = published
    if tokenizer is None or tokenizer.suffix != MODEL:
        return tokenizer or trained
    from expunge.core.errors import ConfigError
    from expunge.models.sentencepiece import convert

    out: Path = parsed.folder / "tokenizers" / tokenizer.stem
    size = convert(tokenizer, out)
    if parsed.vocab_size not in (0, size):
        raise ConfigError(f"--vocab_size={parsed.vocab_size}: {tokenizer} has {size} tokens")
    return out


def _pretokenize(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from expunge.data.stories.text import StoryVariant

    variant = StoryVariant(**{name: getattr(parsed, name) or None for name in RULES})
    variant.rules(), variant.subset()
    return _make(parsed, {parsed.dataset_name or variant.name: variant})


def _protocol(parsed: argparse.Namespace, words: Sequence[str]) -> int:
    from dataclasses import asdict

    from expunge.core.errors import ConfigError
    from expunge.data.stories.protocol import protocol

    variants = protocol(parsed.delete, parsed.irrelevant)
    if parsed.list or parsed.json:
        if parsed.json:
            say(json.dumps({name: asdict(v) for name, v in variants.items()}, indent=1))
            return 0
        for name, variant in variants.items():
            settings = " ".join(f"--{key}={value}" for key, value in asdict(variant).items() if value)
            say(f"{name:{max(map(len, variants))}}  {settings}")
        return 0
    if parsed.folder is None:
        raise ConfigError("--in: name the stories' folder (or --list, to see the data sets alone)")
    return _make(parsed, variants)


def _make(parsed: argparse.Namespace, variants: dict[str, StoryVariant]) -> int:
    from expunge.core.errors import ConfigError
    from expunge.data.stories.pretokenize import check_name, pretokenize

    for name in variants:
        check_name(name)
    is_model = parsed.tokenizer is not None and parsed.tokenizer.suffix == MODEL
    if not is_model and (parsed.vocab_size == 0) != (parsed.tokenizer is not None):
        raise ConfigError("--tokenizer: give a folder if and only if --vocab_size is 0")
    workers = _workers(parsed)
    tokenizer = _chosen_tokenizer(parsed)
    out = parsed.out or parsed.folder / f"tok{parsed.vocab_size}"
    for name, variant in variants.items():
        start = time.perf_counter()
        result = pretokenize(parsed.folder, tokenizer, variant, out / name, seed=parsed.seed, workers=workers)
        took = f"{time.perf_counter() - start:.1f} s" if result.made else "exists already"
        changes = "".join(
            f", {n} {what}"
            for n, what in ((result.changed, "with changed instructions"), (result.refused, "refused"))
            if n
        )
        say(
            f"{name}: {result.documents} of {result.stories} stories kept ({result.share:.1%}), {result.tokens} tokens"
            f"{changes} ({took})"
        )
    say(f"written: {out}")
    say(f"next:    expunge train experiment=stories/pretrain data.root={shlex.quote(str(out))} task_name=NAME")
    return 0


def _workers(parsed: argparse.Namespace) -> int:
    from expunge.core.errors import ConfigError

    if not 1 <= parsed.workers <= 1024:
        raise ConfigError(f"--workers: must be 1 to 1024, got {parsed.workers}")
    return int(parsed.workers)
