"""Estimate the GPU memory of training and scoring from the model's shape and the settings.

Bytes of: weights (float32, or quantised); gradients; the optimiser; the casts of weights that mixed precision keeps for
the backward; activations (of scoring, with the cache); the logits of a chunk. Fragmentation, memory that libraries
reserve and buffers of collectives are not counted; the table's note names the largest of these. Nothing here was
measured on a GPU. On a CPU batches are smaller.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expunge.core.errors import ConfigError, nearest
from expunge.evaluation import config as limits
from expunge.models.config import PRESETS, ModelConfig, adapter_base, check_source, looks_local, weights_source
from expunge.models.identity import hub_file
from expunge.training.config import TrainArgs
from expunge.training.optimizers import weights_dtype

Strategy = Literal["ddp", "fsdp2", "zero2", "zero3"]
STRATEGIES: tuple[Strategy, ...] = ("ddp", "fsdp2", "zero2", "zero3")
GiB = 2**30


@dataclass(frozen=True)
class ParameterCounts:
    """A Llama-like decoder: hidden size D, inner size I of the MLP, L layers, V tokens, width of keys and values."""

    hidden: int
    inner: int
    layers: int
    vocabulary: int
    keys: int
    tied: bool

    @property
    def linear(self) -> Mapping[str, tuple[int, int]]:
        """The linear modules of a layer: inputs and outputs."""
        d, i, k = self.hidden, self.inner, self.keys
        return {
            "q_proj": (d, d), "k_proj": (d, k), "v_proj": (d, k), "o_proj": (d, d),
            "gate_proj": (d, i), "up_proj": (d, i), "down_proj": (i, d),
        }  # fmt: skip

    @property
    def layer(self) -> int:
        """Parameters of one layer's linear modules."""
        return sum(a * b for a, b in self.linear.values())

    @property
    def outside(self) -> int:
        """Parameters outside the layers: embeddings, and the LM head unless it shares them."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, including the layers' norms."""
        return self.layers * (self.layer + 2 * self.hidden) + self.outside


# from their config.json files
SHAPES: Mapping[str, ParameterCounts] = {
    "Llama-2-7b": ParameterCounts(4096, 11008, 32, 32000, 4096, tied=False),
    "Llama-2-13b": ParameterCounts(5120, 13824, 40, 32000, 5120, tied=False),
    "Llama-3.1-8B": ParameterCounts(4096, 14336, 32, 128256, 1024, tied=False),
    "Llama-3.2-1B": ParameterCounts(2048, 8192, 16, 128256, 512, tied=True),
    "Llama-3.2-3B": ParameterCounts(3072, 8192, 28, 128256, 1024, tied=True),
    **{
        name: ParameterCounts(
            p.hidden_size, p.intermediate_size, p.num_hidden_layers, p.vocab_size, p.hidden_size, tied=True
        )
        for name, p in PRESETS.items()
    },
}  # fmt: skip


EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")  # their keys in a configuration


def shape_of(model: str) -> ParameterCounts:
    """Return a model's shape by its name, the name in a hub id, or the config.json of its folder or hub id.

    A hub id is such as `meta-llama/Llama-3.1-8B-Instruct`. Its config.json is read from the local cache, or downloaded
    without weights. Raises ConfigError for an unknown model.
    """
    if adapter_base(model) is not None:
        check_source(model, "memory")
        model = weights_source(model)
    file = Path(model).expanduser() / "config.json"
    if not file.is_file():
        last = model.rpartition("/")[2]
        known = next((name for name in SHAPES if re.match(rf"{re.escape(name)}(-|$)", last)), None)
        is_hub_id = "/" in model and not looks_local(model)
        if known is None and is_hub_id and (config := hub_file(model, None, "config.json")) is not None:
            return shape_of(str(config.parent))
        if known is None:
            owner = "" if "/" in model else f"; a folder with a config.json, or a hub id such as OWNER/{model}, has it"
            raise ConfigError(f"memory: no model folder and no known model {model!r}{nearest(model, SHAPES)}{owner}")
        return SHAPES[known]
    try:
        c = json.loads(file.read_text(encoding="utf-8"))
        if any(c.get(key) for key in EXPERTS):
            raise ConfigError(f"memory: {file}: a mixture of experts; the estimate supports one MLP per layer")
        heads = c["num_attention_heads"]
        keys = c.get("num_key_value_heads", heads) * c.get("head_dim", c["hidden_size"] // heads)
        d, i, n, v = (int(c[k]) for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"))
        return ParameterCounts(d, i, n, v, int(keys), bool(c.get("tie_word_embeddings", False)))
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise ConfigError(f"memory: {file} is not a configuration of a Llama-like model: {error}") from None


def shape_in(model: ModelConfig) -> ParameterCounts:
    """Return the shape of a configured model. Raises ConfigError if its configuration does not contain it."""
    shape = shape_of(str(model.scratch or model.source))
    return dataclasses.replace(shape, vocabulary=model.vocab_size) if model.scratch and model.vocab_size else shape


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device."""

    weights: float
    gradients: float
    optimizer: float
    casts: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """All together."""
        return float(sum(vars(self).values()))


STATE_BYTES = {
    "paged_adamw_8bit": 2,
    "adamw_8bit": 2,
    "adamw_torch_8bit": 2,
    "adamw_torch_8bit_stochastic": 2,
    "adamw_torch_4bit": 1,
    "sgd": 0,
    "adafactor": 0,
}  # bytes per trained value; AdamW has 8
HELD = {None: 4.0, "nf4": 0.516, "int8": 1.0}  # bytes of a linear weight; nf4 with its doubly quantised scales


def estimate_memory(
    shape: ParameterCounts,
    args: TrainArgs,
    strategy: Strategy,
    *,
    processes: int = 1,
    length: int = 512,
    sides: int = 2,
) -> MemoryEstimate:
    """Estimate the memory of one of `processes` devices during training.

    length: tokens of a padded row. sides: rows of a sample that go through the model together (forget and retain: 2).
    """
    trained = _trained(shape, args)
    shared = args.lora.quantize if args.lora else None
    layers = shape.layers * shape.layer
    of_value = 2.0 if weights_dtype(args.optim) == "bfloat16" else 4.0  # bytes of a trained weight and its gradient
    of_layers = layers * (HELD[shared] if shared else of_value)
    weights = of_layers + of_value * (shape.parameters - layers) + (of_value * trained if args.lora else 0.0)
    gradients, optimizer = of_value * trained, float(STATE_BYTES.get(args.optim, 8)) * trained
    split_all, split_state = strategy in ("fsdp2", "zero3"), strategy != "ddp"
    if strategy == "ddp" and processes > 1:
        gradients *= 2  # the buckets of the gradient exchange
    if split_state:
        gradients, optimizer = gradients / processes, optimizer / processes
    if split_all and processes > 1:  # plus gathered weights: two layers, and the weights outside the layers
        weights = weights / processes + of_value * (shape.outside + 2 * shape.layer)
    half = args.bf16 or args.fp16
    layers_alive = 1 if args.activation_checkpointing else shape.layers
    casts = 2.0 * layers_alive * shape.layer if half and of_value == 4 else 0.0
    width = 2 if half else 4
    read = args.per_device_train_batch_size * sides * length
    checkpoint_width = shape.layers * width * shape.hidden if args.activation_checkpointing else 0
    activations = float(read * (layers_alive * _of_layer(shape, width) + checkpoint_width))
    in_chunks = args.logits_chunk_size and (strategy == "ddp" or processes == 1)
    # in chunks: the product, and its slope in strips; else logits, log-probabilities and the slope
    alive = min(args.logits_chunk_size, read) * 2 if in_chunks else read * 3
    return MemoryEstimate(weights, gradients, optimizer, casts, activations, 4.0 * alive * shape.vocabulary)


SCORED = ("tokens", "texts", "samples", "grads", "agreement")  # kinds of records that a model is read for


def estimate_scoring(
    shape: ParameterCounts, kind: str, *, length: int = 512, width: int = 4, n_rows: int | None = None
) -> MemoryEstimate:
    """Estimate the peak memory of a GPU while it computes one kind of records.

    length: tokens of the longest row, including generated ones. width: bytes of a weight. n_rows: the number of rows;
    None: more than one batch.
    """
    there = n_rows * length if n_rows else 2**62
    weights, of_cache = float(width * shape.parameters), 2 * width * shape.layers * shape.keys
    if kind == "grads":
        rows = min(limits.GRADIENT_ANSWERS, max(1, int(limits.GRADIENT_BYTES // weights)), there // length)
        gradient_bytes = rows * (weights + (4.0 * shape.parameters if width < 4 else 0.0))  # and as float32
        read = rows * length
        activations = float(read * shape.layers * _of_layer(shape, width))
        return MemoryEstimate(weights, gradient_bytes, 0.0, 0.0, activations, read * (width + 8.0) * shape.vocabulary)
    if kind in ("texts", "samples"):
        budget = max(limits.GENERATED_TOKENS, limits.CACHE_BYTES // (2 * shape.layers * shape.hidden * width), length)
        budget = min(budget, there)
        of_logit = width + (24.0 if kind == "samples" else 0.0)  # sampling sums probabilities in float64
        activations = float(budget * (of_cache + _of_layer(shape, width)))
        return MemoryEstimate(weights, 0.0, 0.0, 0.0, activations, budget // length * of_logit * shape.vocabulary)
    budget = min(max(limits.SCORED_TOKENS, length), there)
    strips = 3 * 4.0 * min(limits.FLOAT32_LOGITS, budget * shape.vocabulary)
    if kind == "agreement":
        logits = 2.0 * width * budget * shape.vocabulary
        return MemoryEstimate(2 * weights, 0.0, 0.0, 0.0, float(budget * _of_layer(shape, width)), logits + strips)
    # questions once, then answers: one token of a forward pass costs as much as CACHED_PER_TOKEN cached tokens
    cached = min((1 + limits.CACHED_PER_TOKEN) * budget, 2 * there)
    activations = float(budget * _of_layer(shape, width) + cached * of_cache)
    return MemoryEstimate(
        weights, 0.0, 0.0, 0.0, activations, width * min(limits.SCORED_LOGITS, budget * shape.vocabulary) + strips
    )


def _of_layer(shape: ParameterCounts, width: int) -> int:
    """Return the bytes of a token in a layer.

    The inputs of seven products, queries, keys, values, both norms, and three tensors of the MLP's width.
    """
    return width * (8 * shape.hidden + 2 * shape.keys + 4 * shape.inner)


def _trained(shape: ParameterCounts, args: TrainArgs) -> int:
    """Return the number of trained values."""
    if args.lora is not None:
        modules = args.lora.target_modules
        names = shape.linear if isinstance(modules, str) else {n: shape.linear[n] for n in modules if n in shape.linear}
        return shape.layers * sum(args.lora.r * (a + b) for a, b in names.values())
    if args.trainable_last_k_layers:
        return min(args.trainable_last_k_layers, shape.layers) * (shape.layer + 2 * shape.hidden)
    return shape.parameters
