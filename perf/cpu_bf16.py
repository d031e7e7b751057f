"""bfloat16 against float32 on one thread of a CPU: scoring, generation and training, in turns in one run.

    python perf/cpu_bf16.py --model FOLDER [--rows 24] [--steps 6] [--only products,scoring,generation,training]

The first lines are the bound: the products of torch alone, without anything around them, in the shapes of the model.
Without --model the model is a small random one (--preset). Seconds are those of the processor, so that other processes
matter little; the least of --rounds counts. The loss curves of both dtypes have the same weights at first, and the same
rows. On a CPU without bfloat16 instructions its products are emulated, and the first line says so; the curves
are meaningful there too, the speeds are not.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import datetime
import functools
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from speeds import Bench, in_turns, qa_rows, table, training
from transformers import logging

from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.data.template import Template
from expunge.models.bfloat16_attention import compute_attention_in_float32
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.config import ModelArgs, TokenizerArgs
from expunge.models.dtypes import NO_INSTRUCTIONS, cpu_has_bfloat16
from expunge.models.load import load_model, load_tokenizer
from expunge.training.config import TrainArgs

DTYPES = ("float32", "bfloat16")


def loaded(folder: str | None, preset: str, rows: ExampleSet) -> tuple[Any, Any]:
    if folder:
        device = torch.device("cpu")
        return load_model(folder, ModelArgs(), device=device), load_tokenizer(folder, TokenizerArgs())
    texts = [t for r in rows for t in (r.question, *r.answers.values())]
    tokenizer = train_tokenizer(texts, 2048, max_length=512)
    return build_llama(preset, tokenizer, vocab_size=2048, seed=0).eval(), tokenizer


def products(model: Any, tokens: int, rounds: int) -> list[list[str]]:
    """The lines of torch's bare products of the widest layer and of the head: billions of operations per second."""
    config, lines = model.config.get_text_config(), []
    width = config.hidden_size
    for name, n_out in (("layer", config.intermediate_size), ("head", config.vocab_size)):
        x, w, g = torch.randn(tokens, width), torch.randn(n_out, width), torch.randn(tokens, n_out)
        repeats = max(1, int(2e9 / (2 * tokens * width * n_out)))
        calls = {}
        for dtype in DTYPES:
            a, b, c = (t.to(getattr(torch, dtype)) for t in (x, w, g))
            calls |= {
                f"{dtype} forward": functools.partial(repeated, torch.nn.functional.linear, (a, b), repeats),
                f"{dtype} backward": functools.partial(repeated, backward, (a, b, c), repeats),
            }
        best = in_turns(calls, "cpu", rounds + 1)  # the first round also fills caches
        for way, n_products in (("forward", 1), ("backward", 2)):
            speeds = [repeats * n_products * 2 * tokens * width * n_out / best[f"{d} {way}"] / 1e9 for d in DTYPES]
            shape = f"bound: {name} {width} x {n_out}, {tokens} tokens, {way}, GFLOP/s"
            lines.append([shape, *(f"{s:.0f}" for s in speeds), f"{speeds[1] / speeds[0]:.2f}x", ""])
    return lines


def backward(x: torch.Tensor, w: torch.Tensor, grad: torch.Tensor) -> None:
    """The two products of a linear layer's backward."""
    _ = grad @ w, grad.T @ x


def repeated(call: Callable[..., Any], args: Sequence[Any], n: int) -> None:
    for _ in range(n):
        call(*args)


def forwards(benches: dict[str, Bench], rounds: int, what: str) -> list[list[str]]:
    """The lines of scoring or generation: tokens per second in both dtypes, and against the plain way in float32."""
    single, half = (benches[d] for d in DTYPES)
    if what == "scoring":
        calls = {d: b.score for d, b in benches.items()}
        calls |= {"bare": single.bare(statistics=False), "with statistics": single.bare(statistics=True)}
        n = single.n_tokens
    else:
        calls = {d: b.generate for d, b in benches.items()} | {"bare": single.generate_plainly}
        n = sum(text.n_new_tokens for text in single.generate())
        n_half = sum(text.n_new_tokens for text in half.generate())
    best = in_turns(calls, "cpu", rounds)
    ratio = best["float32"] / best["bfloat16"] * (1 if what == "scoring" else n_half / n)
    lines = [[what, f"{n / best['float32']:.0f}", f"{n / best['float32'] * ratio:.0f}", f"{ratio:.2f}x", "3x"]]
    name = "its bare batched forward" if what == "scoring" else "generate of transformers"
    lines.append([f"float32 {what} / {name}", f"{best['bare'] / best['float32']:.0%}", "", "", "85 %"])
    if "with statistics" in best:
        share = best["with statistics"] / best["float32"]
        lines.append(["float32 scoring / bare forward with its tokens' statistics", f"{share:.0%}", "", "", ""])
    return lines


def curves(model: Any, encoder: Encoder, rows: ExampleSet, steps: int, batch: int) -> list[list[str]]:
    """The lines of training: tokens per second, and the losses of both."""
    losses, speeds = [], []
    for dtype in DTYPES:
        args = TrainArgs(
            max_steps=steps, per_device_train_batch_size=batch, gradient_accumulation_steps=1, learning_rate=2e-5,
            logging_steps=1, bf16=dtype == "bfloat16", checkpoint=None, optim="adamw_torch_fused",
        )  # fmt: skip
        with (  # emulated if need be
            mock.patch("expunge.training.trainer.cpu_has_bfloat16", return_value=True),
            mock.patch("expunge.models.dtypes.cpu_has_bfloat16", return_value=True),
        ):
            history, took, n = training(copy.deepcopy(model), encoder, rows, args)
        losses.append(history)
        speeds.append(n / took)
    worst = max(abs(a - b) / abs(a) for a, b in zip(*losses, strict=True))
    shown = [" ".join(f"{x:.3f}" for x in history) for history in losses]
    return [
        ["training", *(f"{s:.0f}" for s in speeds), f"{speeds[1] / speeds[0]:.2f}x", "2x"],
        [f"losses of {steps} steps", *shown, f"at most {worst:.1%} apart", ""],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder of a model, in place of a random one")
    parser.add_argument("--preset", default="llama-1m", help="shape of the random model")
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a bare product")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", default="products,scoring,generation,training")
    given = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    rows = qa_rows(given.rows)
    model, tokenizer = loaded(given.model, given.preset, rows)
    encoder = Encoder(Template(), tokenizer)
    has = "with" if cpu_has_bfloat16() else "without"
    print(f"{datetime.date.today()}, {cpu_name()}, {has} bfloat16 instructions, 1 thread, torch {torch.__version__}.")
    if not cpu_has_bfloat16():
        print(f"{NO_INSTRUCTIONS[0].upper()}{NO_INSTRUCTIONS[1:]}: bfloat16 is emulated.")
    only, lines = given.only.split(","), []
    if "products" in only:
        lines += products(model, given.tokens, given.rounds)
    benches = {d: Bench(copy.deepcopy(model).to(getattr(torch, d)), encoder, rows, given.new_tokens) for d in DTYPES}
    compute_attention_in_float32(benches["bfloat16"].model)  # as models that are loaded in bfloat16
    for bench in benches.values():  # first calls are slow, and observe the model
        warm = dataclasses.replace(bench, rows=ExampleSet("warm", rows.rows[:1]), new_tokens=2)
        warm.score()
        warm.generate()
    for what in ("scoring", "generation"):
        if what in only:
            lines += forwards(benches, given.rounds, what)
    del benches
    if "training" in only:
        lines += curves(model, encoder, rows, given.steps, given.batch)
    print("\n" + table(["tokens/s", *DTYPES, "ratio", "target"], lines))


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "an unknown CPU")


if __name__ == "__main__":
    main()
