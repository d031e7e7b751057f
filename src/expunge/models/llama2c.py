"""Read a checkpoint of llama2.c (`ckpt.pt`) as a Llama of transformers, without running code from the file."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from expunge.core.errors import DataError
from expunge.core.on_use import transformers

SHAPE = ("dim", "n_layers", "n_heads", "vocab_size", "max_seq_len")
PREFIX = "_orig_mod."  # of a compiled model
EXTRA = ("lenses.", "probes.", "freqs_")  # trained on top of a frozen model, or computed
NAMES = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def load_checkpoint(path: Path) -> Mapping[str, Any]:
    """Return the content of a `.pt` file. Only tensors and plain values are read. Raises DataError."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{path}: not a checkpoint of tensors and plain values: {reason}") from None
    if not isinstance(content, dict) or not {"model", "model_args"} <= content.keys():
        raise DataError(f"{path}: not a checkpoint of llama2.c; it needs the entries model and model_args")
    return content


def to_llama(content: Mapping[str, Any], tokenizer: Any, where: str) -> transformers.LlamaForCausalLM:
    """Return a checkpoint's weights as a Llama in float32. Raises DataError for other weights or another tokenizer.

    llama2.c rotates neighbouring pairs of a head's dimensions, transformers its two halves. So the rows of the query
    and key projections change places.
    """
    shape, weights = content["model_args"], _weights(content["model"])
    missing = [key for key in SHAPE if not isinstance(shape.get(key), int)]
    if missing:
        raise DataError(f"{where}: model_args has no number {missing[0]}")
    if len(tokenizer) != shape["vocab_size"]:
        raise DataError(
            f"{where}: a vocabulary of {shape['vocab_size']} tokens, and the tokenizer has {len(tokenizer)}; name the "
            "tokenizer that it was trained with"
        )
    n_heads = shape["n_heads"]
    n_kv = shape.get("n_kv_heads") or n_heads
    first = weights.get("layers.0.feed_forward.w1.weight")
    if first is None:
        raise DataError(f"{where}: not the weights of llama2.c; layers.0.feed_forward.w1.weight is missing")
    config = transformers.LlamaConfig(
        vocab_size=shape["vocab_size"],
        hidden_size=shape["dim"],
        intermediate_size=int(first.shape[0]),
        num_hidden_layers=shape["n_layers"],
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv,
        max_position_embeddings=shape["max_seq_len"],
        rms_norm_eps=shape.get("norm_eps", 1e-5),
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    model = transformers.LlamaForCausalLM(config)
    state = {}
    for name, weight in weights.items():
        target = _target(name, where)
        if name.endswith(("wq.weight", "wk.weight")):
            weight = _halves(weight, n_heads if name.endswith("wq.weight") else n_kv)
        state[target] = weight.float()
    try:
        loaded = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise DataError(f"{where}: {' '.join(str(error).split())[:200]}") from None
    absent = [key for key in loaded.missing_keys if key not in ("lm_head.weight", "model.embed_tokens.weight")]
    if absent or not {"lm_head.weight", "model.embed_tokens.weight"} & state.keys():
        raise DataError(f"{where}: the weights lack {(absent or ['the embedding'])[0]}")
    model.tie_weights()
    model.eval()
    return model


def _weights(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    plain = {name.removeprefix(PREFIX): weight for name, weight in state.items()}
    return {name: weight for name, weight in plain.items() if not name.startswith(EXTRA)}


def _target(name: str, where: str) -> str:
    """Return the name of a weight in transformers."""
    whole = {"tok_embeddings.weight": "model.embed_tokens.weight", "output.weight": "lm_head.weight"}
    if name in whole:
        return whole[name]
    if name == "norm.weight":
        return "model.norm.weight"
    parts = name.split(".", 2)
    stem = parts[2].removesuffix(".weight") if len(parts) == 3 else ""
    if parts[0] != "layers" or stem not in NAMES:
        raise DataError(f"{where}: unknown weight {name}")
    return f"model.layers.{parts[1]}.{NAMES[stem]}.weight"


def _halves(weight: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Return a projection [heads * size, dim] whose rows per head are the even ones, then the odd ones."""
    n_rows, dim = weight.shape
    return weight.view(n_heads, n_rows // n_heads // 2, 2, dim).transpose(1, 2).reshape(n_rows, dim)
