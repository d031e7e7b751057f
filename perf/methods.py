"""A training step of some methods against the plain way, side by side in one run.

    python perf/methods.py [--steps 6] [--rounds 3] [--logits-chunk-size 256] [--only NPO+KL]
    python perf/methods.py --device cuda --dtype bfloat16 --shape llama-1b

The plain way, written out below: a resident reference model, one forward for each side, logits at every position.
Each variant runs in a process of its own, the variants take turns, and the best round counts, because absolute times
are noise on a shared machine. Peak memory is the high-water mark during the steps less that of the loaded model: of the
process's resident memory, or of what is allocated on the GPU. The limit is the bare forward and backward of the same
tokens through the body and the head, with no loss to speak of. The first loss of both ways must agree to 1e-5 in
float32. tokens/s counts the tokens of all rows, prompts too. --cpu-time counts the processor's seconds on one
thread, for a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from expunge.data.batch import Batch, collate
from expunge.data.encoder import Encoded
from expunge.methods import objective
from expunge.training.batching import LossInputBuilder
from expunge.training.config import TrainArgs
from expunge.training.phases import SIDES, TrainingSample, spec_for
from expunge.training.reference import reference

ROWS = 8  # of each side in a step
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "GradDiff": ("GradDiff", {}),
    "NPO+KL": ("NPO", {"retain_loss_type": "KL"}),
    "RMU": ("RMU", {}),
}


@dataclass(frozen=True)
class Shape:
    """A Llama. layer: the one whose output RMU reads."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    layer: int


SHAPES = {
    "tiny": Shape(512, 32, 64, 2, 2, 1, layer=0),
    "llama-8m": Shape(49152, 288, 768, 6, 6, 6, layer=1),  # 8M parameters with a small vocabulary, 20M with this one
    "llama-1b": Shape(128256, 2048, 8192, 16, 32, 8, layer=7),
}


@dataclass(frozen=True)
class Setting:
    """What a run is measured on."""

    shape: str
    device: str
    dtype: str
    logits_chunk_size: int
    cpu_time: int  # 1: processor seconds of one thread; 0: seconds on the wall

    @property
    def of(self) -> Shape:
        """The model's shape."""
        return SHAPES[self.shape]


def build(setting: Setting) -> LlamaForCausalLM:
    """A random model."""
    torch.manual_seed(0)
    keys = asdict(setting.of)
    del keys["layer"]
    config = LlamaConfig(**keys, tie_word_embeddings=True, max_position_embeddings=512)
    with torch.device(setting.device):
        return LlamaForCausalLM(config).to(getattr(torch, setting.dtype))


def move(model: Any) -> None:
    """Take the model away from its reference, so that the compared losses are not those of two equal models."""
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * p.std() * torch.randn(p.shape, generator=source).to(p))


def rows(seed: int, setting: Setting) -> list[Encoded]:
    """Rows of TOFU's shape: prompts of 12 to 40 tokens, answers of 12 to 70."""
    g = torch.Generator().manual_seed(seed)
    out = []
    for _ in range(ROWS):
        prompt, answer = (int(torch.randint(a, b, (1,), generator=g)) for a, b in ((12, 40), (12, 70)))
        ids = torch.randint(3, setting.of.vocab_size, (prompt + answer,), generator=g).tolist()
        out.append(Encoded(tuple(ids), prompt))
    return out


def ours(name: str, model: Any, setting: Setting) -> Callable[[], torch.Tensor]:
    """A step as the training loop makes it."""
    method, args = METHODS[name]
    if name == "RMU":
        args = {"module_regex": f"model.layers.{setting.of.layer}"}
    chosen = objective(method, args)
    sides = {"forget": rows(1, setting), "retain": rows(2, setting)}
    refs = {}
    for side in SIDES:
        what = spec_for(chosen.needs, side, ref=True)
        if what is not None:
            refs[side] = reference(model, sides[side], range(ROWS), what, pad_id=0)
    move(model)
    server = LossInputBuilder(chosen.needs, sides, refs, pad_id=0, logits_chunk_size=setting.logits_chunk_size)
    samples = [TrainingSample(forget=i, retain=i) for i in range(ROWS)]
    server.memory["epoch"] = 0
    return lambda: chosen(server.view(model, samples, device=setting.device)).total


def plain(name: str, model: Any, setting: Setting) -> Callable[[], torch.Tensor]:
    """The same step by the plain way."""
    forget, retain = (collate(rows(s, setting), pad_id=0).to(setting.device) for s in (1, 2))
    ref = build(setting).eval().requires_grad_(False)
    ref.load_state_dict(model.state_dict())
    move(model)
    if name == "GradDiff":
        return lambda: -nll(model, forget) + nll(model, retain)
    if name == "NPO+KL":
        return lambda: npo(model, ref, forget, 0.1) + kl(model, ref, retain)
    control = 2.0 * plain_control(model)  # the method's default steering coefficient
    return lambda: rmu(model, ref, forget, retain, control, setting.of.layer)


def token_logps(model: Any, batch: Batch) -> torch.Tensor:
    """Log-probabilities of all next tokens, [B, T - 1], from logits at every position."""
    logits = model(input_ids=batch.ids_BT, attention_mask=batch.mask_BT.long(), use_cache=False).logits
    return torch.log_softmax(logits[:, :-1].float(), -1).gather(2, batch.ids_BT[:, 1:, None])[..., 0]


def answer_mask(batch: Batch) -> torch.Tensor:
    mask = torch.zeros_like(batch.ids_BT, dtype=torch.bool)
    mask[batch.row_N, batch.pos_N] = True
    return mask


def nll(model: Any, batch: Batch) -> torch.Tensor:
    mask = answer_mask(batch)[:, :-1]
    return -(token_logps(model, batch) * mask).sum() / mask.sum()


def npo(model: Any, ref: Any, batch: Batch, beta: float) -> torch.Tensor:
    mask = answer_mask(batch)[:, :-1]
    with torch.no_grad():
        before = (token_logps(ref, batch) * mask).sum(1)
    return 2 / beta * F.softplus(beta * ((token_logps(model, batch) * mask).sum(1) - before)).mean()


def kl(model: Any, ref: Any, batch: Batch) -> torch.Tensor:
    inputs = {"input_ids": batch.ids_BT, "attention_mask": batch.mask_BT.long(), "use_cache": False}
    with torch.no_grad():
        before = torch.log_softmax(ref(**inputs).logits.float(), -1)
    now = torch.log_softmax(model(**inputs).logits.float(), -1)
    mask = answer_mask(batch)
    return ((before.exp() * (before - now)).sum(-1) * mask).sum() / mask.sum()


def plain_control(model: Any) -> torch.Tensor:
    """The unit control vector that the method draws: uniform in [0, 1]^D from seed 0, scaled to length 1."""
    drawn = torch.rand(model.config.hidden_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (drawn / drawn.norm()).float().to(model.device)


def rmu(model: Any, ref: Any, forget: Batch, retain: Batch, control: torch.Tensor, at: int) -> torch.Tensor:
    """Whole forwards with all hidden states, as a plain hook-free implementation takes them."""

    def layer(m: Any, batch: Batch) -> torch.Tensor:
        out = m(input_ids=batch.ids_BT, attention_mask=batch.mask_BT.long(), output_hidden_states=True, use_cache=False)
        return out.hidden_states[at + 1]

    def per_row(square_BT: torch.Tensor, batch: Batch) -> torch.Tensor:
        mask = torch.zeros_like(batch.ids_BT, dtype=torch.bool)
        mask[batch.row_N, batch.pos_N + 1] = True
        return ((square_BT * mask).sum(1) / mask.sum(1)).mean()

    with torch.no_grad():
        before = layer(ref, retain)
    pushed = per_row((layer(model, forget) - control).square().mean(-1), forget)
    return pushed + per_row((layer(model, retain) - before).square().mean(-1), retain)


def bare(model: Any, setting: Setting) -> Callable[[], torch.Tensor]:
    """The limit: body and head over the real tokens of both sides, and the sum of the logits at the answers."""
    both = collate([*rows(1, setting), *rows(2, setting)], pad_id=0).to(setting.device)

    def step() -> torch.Tensor:
        states = model.model(input_ids=both.ids_BT, use_cache=False).last_hidden_state
        return model.lm_head(states[both.row_N, both.pos_N]).float().mean()

    return step


def resident_mib() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


class Peak(threading.Thread):
    """The largest resident memory seen while it runs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.high, self.on = 0.0, True

    def run(self) -> None:
        while self.on:
            self.high = max(self.high, resident_mib())
            time.sleep(0.002)


def measure(variant: str, name: str, steps: int, setting: Setting) -> dict[str, float]:
    """One process's numbers: the first loss, seconds per step, and GiB over the loaded model."""
    cuda = setting.device == "cuda"
    clock = time.process_time if setting.cpu_time else time.perf_counter
    if setting.cpu_time:
        torch.set_num_threads(1)
    model = build(setting)
    floor = torch.cuda.memory_allocated() / 2**20 if cuda else resident_mib()
    make = {"ours": ours, "plain": plain}.get(variant)
    step = make(name, model, setting) if make else bare(model, setting)
    first = float(step().detach())
    model.zero_grad()
    step().backward()
    times = []
    peak = Peak()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    peak.start()
    for _ in range(steps):
        model.zero_grad(set_to_none=False)
        began = clock()
        step().backward()
        if cuda:
            torch.cuda.synchronize()
        times.append(clock() - began)
    peak.on = False
    peak.join()
    high = torch.cuda.max_memory_allocated() / 2**20 if cuda else peak.high
    return {"loss": first, "s": sorted(times)[len(times) // 2], "gib": (high - floor) / 1024}


def table(names: list[str], steps: int, rounds: int, setting: Setting) -> str:
    runs = [(v, n) for n in names for v in ("plain", "ours")] + [("bare", "-")]
    best: dict[tuple[str, str], dict[str, float]] = {}
    same = [f"--{k.replace('_', '-')}={v}" for k, v in asdict(setting).items()]
    for _ in range(rounds):
        for variant, name in runs:
            done = subprocess.run(
                [sys.executable, __file__, "--one", variant, name, f"--steps={steps}", *same],
                stdout=subprocess.PIPE, check=True, text=True,
            )  # fmt: skip
            got = json.loads(done.stdout.splitlines()[-1])
            kept = best.setdefault((variant, name), got)
            kept["s"], kept["gib"] = min(kept["s"], got["s"]), min(kept["gib"], got["gib"])
    return written(names, best, sum(len(r.ids) for seed in (1, 2) for r in rows(seed, setting)))


def written(names: list[str], best: dict[tuple[str, str], dict[str, float]], n_tokens: int) -> str:
    """The table in Markdown."""
    limit = best["bare", "-"]
    lines = [
        "| method | plain s | ours s | time | plain tokens/s | ours tokens/s | plain GiB | ours GiB | memory | "
        "ours / bare | loss differs by |",
        "|" + " --- |" * 11,
    ]
    for name in names:
        p, o = best["plain", name], best["ours", name]
        lines.append(
            f"| {name} | {p['s']:.3f} | {o['s']:.3f} | {o['s'] / p['s']:.2f}x | {n_tokens / p['s']:.0f} | "
            f"{n_tokens / o['s']:.0f} | {p['gib']:.2f} | {o['gib']:.2f} | {o['gib'] / p['gib']:.2f}x | "
            f"{o['s'] / limit['s']:.2f}x | {abs(p['loss'] - o['loss']):.1e} |"
        )
    lines.append(f"\nBare forward and backward of the same tokens: {limit['s']:.3f} s, {limit['gib']:.2f} GiB.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--shape", default="llama-8m", choices=SHAPES)
    parser.add_argument("--logits-chunk-size", type=int, default=TrainArgs().logits_chunk_size)
    parser.add_argument("--cpu-time", type=int, nargs="?", const=1, default=0, choices=[0, 1])
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    setting = Setting(given.shape, given.device, given.dtype, given.logits_chunk_size, given.cpu_time)
    if given.cpu_time and given.device == "cuda":
        parser.error("--cpu-time: a GPU's work takes no processor time")
    if given.one:
        print(json.dumps(measure(given.one[0], given.one[1], given.steps, setting)))
    else:
        print(table(given.only, given.steps, given.rounds, setting))


if __name__ == "__main__":
    main()
