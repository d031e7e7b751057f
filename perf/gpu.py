"""One GPU in under nine minutes, without a network: a random 1B model in bfloat16, built from its configuration.

    python perf/gpu.py                 # on one H200
    python perf/gpu.py --tiny          # the same code on a CPU in seconds; its numbers mean nothing

Parts, in this order: a step of each method against the plain way (`methods.py`: time and peak memory); whole training
runs in random order, in groups of one length, and as one FSDP2 shard; scoring and generation against the bare forward
and transformers' generate, and vLLM if it is installed; and the logits of flash attention against eager attention. A
part that ends in an error is a line of the table, and the later parts still run. No part starts after --minutes.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from speeds import Bench, in_turns, qa_rows, table, training, wait
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers import LlamaConfig, LlamaForCausalLM, logging

import methods
from expunge.data.encoder import Encoder
from expunge.data.template import Template
from expunge.evaluation.config import Generation
from expunge.evaluation.generation import generate_texts
from expunge.models.build import train_tokenizer
from expunge.training.config import TrainArgs

Lines = list[list[Any]]


@dataclasses.dataclass(frozen=True)
class Size:
    """The amount of work: the shape's name in `methods.py`, rows, steps and new tokens."""

    shape: str
    device: str
    rows: int
    steps: int
    batch: int
    new_tokens: int
    rounds: int

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.device == "cpu" else torch.bfloat16


FULL = Size("llama-1b", "cuda", rows=512, steps=12, batch=16, new_tokens=64, rounds=2)
TINY = Size("tiny", "cpu", rows=8, steps=2, batch=2, new_tokens=3, rounds=1)


def bench_of(size: Size, *, attention: str = "sdpa", dtype: torch.dtype | None = None) -> Bench:
    """A random model of a shape with a tokenizer of its own; the same weights each time."""
    rows = qa_rows(size.rows)
    keys = dataclasses.asdict(methods.SHAPES[size.shape])
    del keys["layer"]
    tokenizer = train_tokenizer(
        [t for r in rows for t in (r.question, r.answer)], min(2048, keys["vocab_size"]), max_length=512
    )
    config = LlamaConfig(
        **keys, tie_word_embeddings=True, max_position_embeddings=512, attn_implementation=attention,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(size.device):
        model = LlamaForCausalLM(config).to(dtype or size.dtype).eval()
    return Bench(model, Encoder(Template(max_length=256), tokenizer), rows, size.new_tokens)


def steps_of_methods(size: Size) -> Lines:
    """A step of each method, in this process: seconds and GiB, plain and ours."""
    setting = methods.Setting(size.shape, size.device, str(size.dtype).removeprefix("torch."), 256, 0)
    lines: Lines = []
    for name in methods.METHODS:
        plain, ours = (methods.measure(variant, name, size.steps, setting) for variant in ("plain", "ours"))
        lines.append([f"step of {name}: s, plain / ours", *(f"{x['s']:.4f}" for x in (plain, ours)),
                      f"{plain['s'] / ours['s']:.2f}x"])  # fmt: skip
        lines.append([f"step of {name}: GiB, plain / ours", *(f"{x['gib']:.2f}" for x in (plain, ours)),
                      f"{plain['gib'] / max(ours['gib'], 1e-9):.2f}x"])  # fmt: skip
    return lines


def runs(size: Size) -> Lines:
    """Tokens per second of whole training runs: rows in groups of one length, in random order, and as a shard."""
    speeds = {}
    for name, keys in {"random order": {"group_by_length": False}, "groups of one length": {}}.items():
        speeds[name] = train_speed(size, bench_of(size, dtype=torch.float32), keys)
    with one_shard(size) as shard:
        bench = bench_of(size, dtype=torch.float32)
        speeds["FSDP2 on one device"] = train_shard(size, bench, shard)
    first = speeds["random order"]
    return [
        [f"training, {name}: tokens/s", f"{first:.0f}", f"{v:.0f}", f"{v / first:.2f}x"] for name, v in speeds.items()
    ]


def train_speed(size: Size, bench: Bench, keys: dict[str, Any]) -> float:
    args = TrainArgs(
        max_steps=size.steps, per_device_train_batch_size=size.batch, gradient_accumulation_steps=1, checkpoint=None,
        logging_steps=size.steps, bf16=size.device != "cpu", learning_rate=1e-6, **keys,
    )  # fmt: skip
    training(bench.model, bench.encoder, bench.rows, dataclasses.replace(args, max_steps=1))  # the first step is slow
    _, took, n = training(bench.model, bench.encoder, bench.rows, args)
    return n / took


@contextmanager
def one_shard(size: Size) -> Iterator[Any]:
    """A mesh of this one process."""
    with tempfile.TemporaryDirectory() as folder:
        backend = "gloo" if size.device == "cpu" else "nccl"
        dist.init_process_group(backend, init_method=f"file://{folder}/mesh", rank=0, world_size=1)
        try:
            yield init_device_mesh(size.device, (1,))
        finally:
            dist.destroy_process_group()


def train_shard(size: Size, bench: Bench, mesh: Any) -> float:
    """Steps of plain cross-entropy on a model that `fully_shard` divides among one device."""
    half = torch.bfloat16 if size.device != "cpu" else None
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
    for layer in [*bench.model.model.layers, bench.model]:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    optimizer = torch.optim.AdamW(bench.model.parameters(), lr=1e-6)
    items = bench.items
    done, began = 0, 0.0
    for step in range(size.steps + 1):
        some = [items[(step * size.batch + i) % len(items)].encoded.ids for i in range(size.batch)]
        width = max(map(len, some))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in some], device=size.device)
        labels = torch.tensor([[*row, *[-100] * (width - len(row))] for row in some], device=size.device)
        bench.model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step == 0:
            wait(size.device)
            began = time.perf_counter()
        else:
            done += sum(map(len, some))
    wait(size.device)
    return done / (time.perf_counter() - began)


def reading(size: Size) -> Lines:
    """Scoring and generation, in tokens per second, next to the bare forward and transformers' generate."""
    bench = bench_of(size)
    bench.score()  # observes the model
    calls = {"ours": bench.score, "bare": bench.bare(statistics=False)}
    best = in_turns(calls, size.device, size.rounds)
    n = bench.n_tokens
    lines: Lines = [["scoring: tokens/s, bare / ours", f"{n / best['bare']:.0f}", f"{n / best['ours']:.0f}",
                     f"{best['bare'] / best['ours']:.0%}"]]  # fmt: skip
    bench.generate()
    best = in_turns({"ours": bench.generate, "plain": bench.generate_plainly}, size.device, size.rounds)
    n = size.rows * size.new_tokens
    lines.append(["generation: tokens/s at most, transformers / ours", f"{n / best['plain']:.0f}",
                  f"{n / best['ours']:.0f}", f"{best['plain'] / best['ours']:.2f}x"])  # fmt: skip
    return lines


def by_vllm(size: Size) -> Lines:
    """Generation by vLLM, with its start; one line says if it is not installed."""
    if importlib.util.find_spec("vllm") is None:
        return [["generation by vLLM", "", "not installed", ""]]
    bench = bench_of(size)
    with tempfile.TemporaryDirectory() as folder:
        bench.model.save_pretrained(folder)
        bench.encoder.tokenizer.save_pretrained(folder)
        bench.model.config._name_or_path = folder
        how = Generation(max_new_tokens=size.new_tokens, backend="vllm")
        began = time.perf_counter()
        texts = generate_texts(bench.model, bench.rows, "answer", bench.encoder, how)
        took = time.perf_counter() - began
    return [["generation by vLLM with its start: tokens/s", "", f"{sum(t.n_new_tokens for t in texts) / took:.0f}", ""]]


def attention(size: Size) -> Lines:
    """The largest difference of a token's log-probability under other attention, as a share of eager's spread."""
    kinds = ["sdpa", *(["flash_attention_2"] if importlib.util.find_spec("flash_attn") else [])]
    eager = bench_of(size, attention="eager").score()["logp"].to_numpy()
    lines: Lines = []
    for kind in kinds:
        other = bench_of(size, attention=kind).score()["logp"].to_numpy()
        what = f"attention {kind}: spread of eager's logp, and the largest difference"
        lines.append([what, f"{eager.std():.3f}", f"{abs(other - eager).max():.1e}", ""])
    return lines


PARTS: dict[str, Callable[[Size], Lines]] = {
    "methods": steps_of_methods, "runs": runs, "reading": reading, "vllm": by_vllm, "attention": attention,
}  # fmt: skip


def measured(size: Size, only: list[str], minutes: float) -> Lines:
    """The lines of all parts; the reason stands in the line of a part that fails or is not begun."""
    began, lines = time.monotonic(), []
    for name in only:
        if time.monotonic() - began > 60 * minutes:
            lines.append([name, "", "not begun: no time left", ""])
            continue
        try:
            lines += PARTS[name](size)
        except (RuntimeError, ValueError, ImportError) as error:
            if size is TINY:
                raise
            lines.append([name, "", f"{type(error).__name__}: {str(error).splitlines()[0][:80]}", ""])
        if size.device != "cpu":
            torch.cuda.empty_cache()
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="the same code with a tiny model on a CPU")
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--minutes", type=float, default=7, help="no part begins later")
    parser.add_argument("--out", type=Path, help="write the table there as well")
    given = parser.parse_args()
    logging.set_verbosity_error()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    size = TINY if given.tiny else FULL
    name = "CPU" if size.device == "cpu" else torch.cuda.get_device_name()
    text = f"{datetime.date.today()}, {name}, torch {torch.__version__}, {size.shape} in {size.dtype}\n\n"
    text += table(["measurement", "plain", "ours", "ratio"], measured(size, given.only, given.minutes))
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
