"""Read a checkpoint of llama2.c (`ckpt.pt`) as a Llama of transformers, without running code from the file."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from expunge.core.errors import DataError, one_line
from expunge.core.on_use import transformers

SHAPE = ("dim", "n_layers", "n_heads", "vocab_size", "max_seq_len")
PREFIX = "_orig_mod."  # of a compiled model
EXTRA = ("lenses.", "probes.", "freqs_")  # trained on top of a frozen model, or computed
MASK = ".attention.mask"  # a computed buffer, which checkpoints of PyTorch before 2.0 contain
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
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is a folder, a device or a pipe; name a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on a protocol of pickle that is not torch's own
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Exception as error:  # of any class, from the reader of a damaged pickle
        raise DataError(f"{path}: not a checkpoint of tensors and plain values: {_reason(error)}") from None
    groups = [content.get(key) for key in ("model", "model_args")] if isinstance(content, dict) else [None]
    if not all(isinstance(group, Mapping) for group in groups):
        raise DataError(f"{path}: not a checkpoint of llama2.c; it needs the entries model and model_args")
    return cast(Mapping[str, Any], content)


def _reason(error: Exception) -> str:
    """Return why a file was not read. torch's own words advise to read it without the check, which would run code."""
    text = " ".join(str(error).split())
    if name := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it has an object of {name[1]}, whose code would run"
    if isinstance(error, pickle.UnpicklingError):
        return "it is a pickle of another kind"
    if isinstance(error, LookupError | TypeError | AttributeError):  # of the reader, at bytes that are no pickle
        return "it is no file of torch.save"
    return f"{text[:160] or 'it ends early'}; is the file complete?"


def to_llama(content: Mapping[str, Any], tokenizer: Any, where: str) -> transformers.LlamaForCausalLM:
    """Return a checkpoint's weights as a Llama in float32. Raises DataError for other weights or another tokenizer.

    llama2.c rotates neighbouring pairs of a head's dimensions, transformers its two halves. So the rows of the query
    and key projections change places.
    """
    shape, weights = content["model_args"], _weights(content["model"], where)
    config = _config(shape, weights, tokenizer, where)
    n_heads, n_kv = shape["n_heads"], int(config.num_key_value_heads or shape["n_heads"])
    model = transformers.LlamaForCausalLM(config)
    state = {}
    for name, weight in weights.items():
        target = _target(name, where)
        if name.endswith(("wq.weight", "wk.weight")):
            n = n_heads if name.endswith("wq.weight") else n_kv
            fitting = (n * (shape["dim"] // n_heads), shape["dim"])
            if tuple(weight.shape) != fitting:
                raise DataError(f"{where}: {name} has the shape {tuple(weight.shape)}; by model_args it is {fitting}")
            weight = _halves(weight, n)
        state[target] = weight.float()
    try:
        loaded = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise DataError(f"{where}: {one_line(error)[:200]}") from None
    if loaded.unexpected_keys:
        n = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers."))
        raise DataError(f"{where}: it has the weights of {n} layers, and n_layers of model_args is {shape['n_layers']}")
    absent = [key for key in loaded.missing_keys if key not in ("lm_head.weight", "model.embed_tokens.weight")]
    if absent or not {"lm_head.weight", "model.embed_tokens.weight"} & state.keys():
        raise DataError(f"{where}: the weights lack {(absent or ['the embedding'])[0]}")
    model.tie_weights()
    model.eval()
    return model


def _config(
    shape: Mapping[str, Any], weights: Mapping[str, torch.Tensor], tokenizer: Any, where: str
) -> transformers.LlamaConfig:
    """Return the configuration of a checkpoint. Raises DataError for numbers that fit no model or no tokenizer."""
    for key in (*SHAPE, *(key for key in ("n_kv_heads",) if shape.get(key) is not None)):
        value = shape.get(key)
        if not isinstance(value, int) or value < 1:
            raise DataError(f"{where}: {key} of model_args must be a whole number of at least 1, got {value!r:.40}")
    eps = shape.get("norm_eps", 1e-5)
    if not isinstance(eps, float | int) or not 0 < eps < 1:
        raise DataError(f"{where}: norm_eps of model_args must be a number above 0 and below 1, got {eps!r:.40}")
    if len(tokenizer) != shape["vocab_size"]:
        raise DataError(
            f"{where}: a vocabulary of {shape['vocab_size']} tokens, and the tokenizer has {len(tokenizer)}; name the "
            "tokenizer that it was trained with"
        )
    n_heads = shape["n_heads"]
    n_kv = shape.get("n_kv_heads") or n_heads
    if shape["dim"] % n_heads or n_heads % n_kv:
        raise DataError(
            f"{where}: model_args has dim {shape['dim']}, {n_heads} n_heads and {n_kv} n_kv_heads; each must be a "
            "multiple of the next"
        )
    first = weights.get("layers.0.feed_forward.w1.weight")
    if first is None:
        raise DataError(f"{where}: not the weights of llama2.c; layers.0.feed_forward.w1.weight is missing")
    embedding, head = (weights.get(f"{name}.weight") for name in ("tok_embeddings", "output"))
    return transformers.LlamaConfig(
        vocab_size=shape["vocab_size"],
        hidden_size=shape["dim"],
        intermediate_size=int(first.shape[0]),
        num_hidden_layers=shape["n_layers"],
        num_attention_heads=n_heads,
        num_key_value_heads=n_kv,
        max_position_embeddings=shape["max_seq_len"],
        rms_norm_eps=eps,
        tie_word_embeddings=embedding is None or head is None or torch.equal(embedding, head),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )


def _weights(state: Mapping[str, torch.Tensor], where: str) -> dict[str, torch.Tensor]:
    """Return the weights by their plain names. Raises DataError for other values than tensors of finite numbers."""
    out = {}
    for name, weight in state.items():
        if not isinstance(name, str) or not isinstance(weight, torch.Tensor):
            raise DataError(f"{where}: the entry {name!r:.40} of model is not a tensor with a name")
        plain = name.removeprefix(PREFIX)
        if plain.startswith(EXTRA) or plain.endswith(MASK):
            continue
        if not weight.is_floating_point() or not torch.isfinite(weight).all():
            raise DataError(f"{where}: {name} has values that are not finite numbers")
        out[plain] = weight
    return out


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
