"""The least processor seconds of a TOFU evaluation with one model: its arithmetic, and the steps no program leaves out.

    python perf/least.py TOFU MODEL default|all

TOFU is a folder of TOFU's JSON files, MODEL is a folder of a model with its tokenizer. Prints JSON:

- arithmetic: the forward of `bare_work` in evaluation.py, with each prompt and its answer in place of decoding, and
  without the reference model, whose losses can come from its log;
- tokenising: one call of the tokenizer with the texts of all distinct answers and of each question once;
- statistics: the log-softmax of the logits of these answers, the tokens' entries of it, and the largest logits;
- decoding: the model's forward while texts are written token by token, more than its part of the arithmetic.

The parts are measured on their own: loading, batches, records, metrics and files are in none.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from evaluation import bare_sizes, bare_work, clock, load, tofu_work, unpadded
from expunge.data.encoder import Encoder
from expunge.data.loaders.tofu import load_tofu
from expunge.data.template import Template
from expunge.evaluation.config import Generation
from expunge.evaluation.generation import generate_texts
from expunge.evaluation.loglikelihood import encode_items
from expunge.metrics.compute import requests

BATCH = 2048  # tokens


def seconds(call: Callable[[], Any]) -> float:
    """The processor seconds of the second of two calls, because the first ones are slow."""
    call()
    return clock(call)[2]


def texts_of(encoder: Encoder, work: Any) -> list[str]:
    """The text of each question with its answers, the question once."""
    texts = []
    for name, variants in requests(work.panel)["tokens"].items():
        seen: set[int] = set()
        for item in encode_items(work.sets[name], variants, encoder):
            ids = item.encoded.ids if item.row_id not in seen else item.encoded.ids[item.encoded.n_prompt :]
            seen.add(item.row_id)
            texts.append(encoder.tokenizer.decode(ids))
    return texts


@torch.inference_mode()
def statistics(logits_BV: torch.Tensor, batches: Sequence[int]) -> None:
    """The statistics of a vocabulary at the scored tokens of each batch, with the same random logits in each."""
    for n in batches:
        logits_NV = logits_BV[:n]
        torch.log_softmax(logits_NV, dim=-1).gather(-1, torch.zeros(n, 1, dtype=torch.long))
        logits_NV.argmax(-1)


def decoding_s(model: Any, encoder: Encoder, work: Any) -> float:
    """The processor seconds of the model's forward while it writes all texts."""
    spent, forward = 0.0, model.forward

    def timed(*args: Any, **options: Any) -> Any:
        nonlocal spent
        out, _, cpu = clock(lambda: forward(*args, **options))
        spent += cpu
        return out

    model.forward = timed
    try:
        for name in requests(work.panel)["texts"]:
            settings = Generation(max_new_tokens=work.limits[name])
            generate_texts(model, work.sets[name], "answer", encoder, settings)
    finally:
        model.forward = forward
    return spent


def parts(model: Any, encoder: Encoder, work: Any) -> dict[str, float]:
    """The processor seconds of each part of an evaluation."""
    sizes = {**bare_sizes(encoder, work), "theirs": []}
    written = {**{key: [] for key in sizes}, "texts": sizes["texts"]}
    texts = texts_of(encoder, work)
    batches = [ids.numel() for ids in unpadded(model, [k for _, k in sizes["answers"]], BATCH)]
    with torch.inference_mode():
        again = seconds(lambda: bare_work(model, written))
    return {
        "arithmetic": seconds(lambda: bare_work(model, sizes)),
        "tokenising": seconds(lambda: encoder.tokenizer(texts, add_special_tokens=False)),
        "statistics": seconds(lambda: statistics(torch.randn(max(batches), model.config.vocab_size), batches)),
        "decoding": decoding_s(model, encoder, work) - again,
    }


def main() -> None:
    """Measure the parts and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("tofu", "model"):
        parser.add_argument(name, type=Path)
    parser.add_argument("panel", choices=("default", "all"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    sets = load_tofu(str(args.tofu), forget_split="forget10", retain_split="retain90", holdout_split="holdout10")
    model, tokenizer = load(str(args.model), "float32", "", [], "cpu")
    encoder = Encoder(Template(max_length=2048), tokenizer)
    work = tofu_work(sets, everything=args.panel == "all")
    print(json.dumps({name: round(value, 2) for name, value in parts(model, encoder, work).items()}))


if __name__ == "__main__":
    main()
