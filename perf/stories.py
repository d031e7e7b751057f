"""Tokenising stories: the first variant, a second one, and tokenising anew, side by side in one run.

    python perf/stories.py [--n 40000] [--rounds 3] [--vocab_size 4096]

Two processes throughout. "library" is what the tokenizers library does on two threads with the same pieces, held in
memory, and nothing else (`encode_batch_fast`, no ids read out): the limit. "first" reads, tokenises and stores the
shards; "anew" renders and tokenises the second variant's texts; "second" puts that variant together from stored
pieces. "first" includes a start of the processes; "shards only" leaves it out. The ways take turns and the best round
counts, because absolute times are noise on a shared machine. The ids of "anew" and "second" must be equal.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WAYS = ("library", "first", "anew", "second")


def measure(way: str, folder: Path, tokenizer: Path) -> dict[str, Any]:
    """One way in this process: seconds, its own and its children's CPU seconds, peak memory of the largest process."""
    from expunge.data.stories.cache import pieces_of
    from expunge.data.stories.pretokenize import pretokenize
    from expunge.data.stories.records import load_records
    from expunge.data.stories.text import StoryVariant
    from expunge.data.stories.tokens import load_tokenizer

    second = StoryVariant("features!=Twist", adversarial_training="features=Twist:1.0")
    token = load_tokenizer(tokenizer)
    if way == "library":
        texts = [piece for story in load_records(folder) for piece in pieces_of(story, 0)]
        batches = [texts[i : i + 8000] for i in range(0, len(texts), 8000)]
        start = time.perf_counter()
        for batch in batches:
            token.core.encode_batch_fast(batch, add_special_tokens=False)
        took, size = time.perf_counter() - start, sum(map(len, texts))
        return {"seconds": took, "characters": size}
    if way == "first":
        shutil.rmtree(folder / "tokens", ignore_errors=True)
        shutil.rmtree(folder / "sets" / "all", ignore_errors=True)
        start = time.perf_counter()
        pretokenize(folder, tokenizer, StoryVariant(), folder / "sets" / "all", workers=2)
    else:
        out = folder / "sets" / way
        shutil.rmtree(out, ignore_errors=True)
        start = time.perf_counter()
        pretokenize(folder, _joining(tokenizer) if way == "anew" else tokenizer, second, out, workers=2)
    took = time.perf_counter() - start
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"seconds": took, "peak_mib": peak / 1024}


def _joining(tokenizer: Path) -> Path:
    """The same tokenizer in a form that is not known to keep lines apart, so that every text is tokenised whole."""
    out = tokenizer.with_name(tokenizer.name + "-whole")
    if not out.exists():
        shutil.copytree(tokenizer, out)
        parts = json.loads((out / "tokenizer.json").read_text())
        parts["normalizer"] = {"type": "Sequence", "normalizers": []}  # does nothing
        (out / "tokenizer.json").write_text(json.dumps(parts))
    return out


def main() -> None:
    """Run every way in turn, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=40_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vocab_size", type=int, default=4096)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args.way, args.folder, args.folder / "tokenizers" / f"bpe{args.vocab_size}")))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "stories"
        command = [sys.executable, "-m", "expunge", "data", "stories"]
        subprocess.run([*command, "generate", "--n", str(args.n), "--out", folder], check=True)
        subprocess.run([*command, "train-vocab", "--in", folder, "--vocab_size", str(args.vocab_size)], check=True)
        best: dict[str, dict[str, Any]] = {}
        for _ in range(args.rounds):
            for way in WAYS:
                again = [
                    sys.executable,
                    __file__,
                    "--way",
                    way,
                    "--folder",
                    folder,
                    "--vocab_size",
                    str(args.vocab_size),
                ]
                environment = {**os.environ, "RAYON_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "true"}
                done = subprocess.run(again, check=True, capture_output=True, text=True, env=environment)
                found = json.loads(done.stdout)
                if way not in best or found["seconds"] < best[way]["seconds"]:
                    best[way] = found
        same = all(
            (folder / "sets" / "anew" / p.name).read_bytes() == p.read_bytes()
            for p in (folder / "sets" / "second").glob("0*")
        )
    seconds = {way: best[way]["seconds"] for way in WAYS}
    size = best["library"]["characters"] / 1e6
    print(f"{args.n} stories, {size:.1f} M characters, vocabulary {args.vocab_size}, best of {args.rounds}")
    print(f"\n{'way':8} {'s':>8} {'M chars/s':>10} {'peak MiB':>9}")
    for way in WAYS:
        rate = f"{size / seconds[way]:.2f}" if way in ("library", "first") else ""
        print(f"{way:8} {seconds[way]:8.2f} {rate:>10} {best[way].get('peak_mib', float('nan')):9.0f}")
    print(f"\nfirst / library, throughput: {seconds['library'] / seconds['first']:.2f} (wanted: 0.8 or more)")
    print(f"second / anew, time:         {seconds['second'] / seconds['anew']:.3f} (wanted: 0.1 or less)")
    print(f"same ids:                    {same}")


if __name__ == "__main__":
    main()
