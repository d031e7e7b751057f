"""Measure the speed of a run: tokens per second, operations per second, and the share of the device's peak (MFU).

Operations of a token: 4 N for the forward and the backward in the activations; 2 N_t for the backward in the weights
that are trained (N = N_t without masks or adapters: the usual 6 N); 12 L d T for attention over a row of T tokens, as
in PaLM (arXiv:2204.02311, appendix B), which counts the masked half too. N: parameters in matrix products, so without
an embedding table that is only used for lookups. Activation checkpointing, chunks of the LM head and reference models
are not counted, so the MFU is that of the model's own work. Padding is not counted.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from expunge.models.packed import bare

# dense bfloat16 (V100, T4: float16) products, TFLOP/s, by the makers' data sheets; the first matching name counts
PEAKS = {
    "B200": 2250.0, "GH200": 989.4, "H200": 989.4, "H100 PCIe": 756.0, "H100": 989.4, "A100": 312.0, "A10G": 70.0,
    "A10": 125.0, "A30": 165.0, "A40": 149.7, "L40S": 362.0, "L4": 121.0, "V100": 125.0, "T4": 65.0, "4090": 165.2,
    "3090": 71.0,
}  # fmt: skip


@dataclass
class InputCounter:
    """Counts of the input: non-padding tokens, the sum of the rows' squared lengths, rows, and seconds of collation."""

    tokens: int = 0
    squares: int = 0
    rows: int = 0
    wait_s: float = 0.0

    def add(self, lengths: np.ndarray[Any, np.dtype[np.int64]], wait_s: float) -> None:
        """Add a batch of rows whose collation took `wait_s` seconds."""
        self.tokens += int(lengths.sum())
        self.squares += int((lengths * lengths).sum())
        self.rows += len(lengths)
        self.wait_s += wait_s


@dataclass(frozen=True)
class StepFlops:
    """The operations of a model: per token, and per pair of tokens of a row.

    peak: the device's operations per second; None with the reason in `missing`.
    """

    per_token: float
    per_pair: float
    peak: float | None
    missing: str = ""

    def flops(self, read: InputCounter) -> float:
        """Return the floating-point operations of the input."""
        return self.per_token * read.tokens + self.per_pair * read.squares


def step_flops(model: Any, peak_tflops: float | None, *, half: bool) -> StepFlops:
    """Return the work of training the current model. half: it computes in 16 bits, for which the peaks are known."""
    inner = bare(model)
    table = inner.get_input_embeddings().weight
    head = inner.get_output_embeddings()
    looked_up = 0 if head is not None and head.weight is table else table.numel()
    n_all = sum(p.numel() for p in inner.parameters()) - looked_up
    n_trained = sum(p.numel() for p in inner.parameters() if p.requires_grad and p is not table)
    n_trained += table.numel() if table.requires_grad and not looked_up else 0
    config = inner.config.get_text_config()
    layers, width = getattr(config, "num_hidden_layers", 0), getattr(config, "hidden_size", 0)
    peak, missing = _peak(next(inner.parameters()).device, peak_tflops, half)
    return StepFlops(4.0 * n_all + 2.0 * n_trained, 12.0 * layers * width, peak, missing)


def _peak(device: torch.device, tflops: float | None, half: bool) -> tuple[float | None, str]:
    if tflops is not None:
        return tflops * 1e12, ""
    if device.type != "cuda":
        return None, "the peak of this processor is not known; give peak_tflops"
    name = torch.cuda.get_device_name(device)
    known = next((peak for part, peak in PEAKS.items() if part in name), None)
    if known is None:
        return None, f"the peak of {name} is not known; give peak_tflops"
    if not half:
        return None, f"the peak of {name} is known in 16 bits, and this run computes in 32; give peak_tflops"
    return known * 1e12, ""


@dataclass
class ThroughputMeter:
    """Time and work of a run in this process, without evaluations and checkpoints.

    lines: one for each line of the log, by its step.
    """

    work: StepFlops
    read: InputCounter = field(default_factory=InputCounter)
    lines: list[dict[str, float | None]] = field(default_factory=list)
    _spent: float = 0.0
    _since: float | None = None
    _before: tuple[InputCounter, float] = field(default_factory=lambda: (InputCounter(), 0.0))

    def go(self) -> None:
        """Start the clock: training continues."""
        self._since = time.perf_counter() if self._since is None else self._since

    def rest(self) -> None:
        """Stop the clock: an evaluation or a checkpoint begins."""
        if self._since is not None:
            self._spent += time.perf_counter() - self._since
            self._since = None

    @property
    def seconds(self) -> float:
        """Seconds of training."""
        return self._spent + (0.0 if self._since is None else time.perf_counter() - self._since)

    def line(self, step: int) -> dict[str, float | None]:
        """Add the speed since the previous line, and return it."""
        (before, at), seconds, now = self._before, self.seconds, InputCounter(**vars(self.read))
        self._before = now, seconds
        part = InputCounter(**{k: v - getattr(before, k) for k, v in vars(now).items()})
        self.lines.append({"step": step, **self._rates(part, seconds - at)})
        return self.lines[-1]

    def _rates(self, read: InputCounter, seconds: float) -> dict[str, float | None]:
        per_s = (lambda x: x / seconds) if seconds > 0 else (lambda x: math.nan)
        mfu = None if self.work.peak is None else per_s(self.work.flops(read)) / self.work.peak
        rates = {
            "tokens": read.tokens,
            "tokens_per_s": per_s(read.tokens),
            "mfu": mfu,
            "wait_share": per_s(read.wait_s),
        }
        return {k: None if v is None or math.isnan(v) else v for k, v in rates.items()}

    def facts(self) -> dict[str, Any]:
        """Return the speed of the whole run for its record; an unknown MFU has its reason."""
        seconds = self.seconds
        flops = self.work.flops(self.read)
        out: dict[str, Any] = {"train_s": round(seconds, 3), **self._rates(self.read, seconds), "flops": flops}
        if out["mfu"] is None:
            out["mfu_missing"] = self.work.missing or "nothing was trained"
        return out
