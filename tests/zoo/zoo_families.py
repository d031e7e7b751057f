"""The zoo: tiny random models of many architectures. A new family is one line of `FAMILIES`."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 96
WINDOW = 8  # tokens of every sliding window: the rows of the zoo are longer

DROP = object()  # an override that removes a key of COMMON

# Each key is used where the family's configuration has it.
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "init_std": 0.3,
    "w_std": 0.3,
    "embed_init_std": 0.3,
    "logit_scale": 1.0,
    "sliding_window": WINDOW,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 48,
    "n_positions": 128,
    "d_model": 32,
    "n_layers": 2,
    "n_heads": 4,
    "num_heads": 4,
    "ffn_dim": 48,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "max_seq_len": 128,
    "n_ctx": 128,
    "window_size": WINDOW,
    "word_embed_proj_dim": 32,
    "rotary_dim": 4,
    "is_decoder": True,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
    "mamba_d_state": 8,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "state_size": 8,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
}

_LATENT: dict[str, Any] = {"head_dim": 4, "num_key_value_heads": 4}
_LINEAR: dict[str, Any] = {
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}

FAMILIES: dict[str, dict[str, Any]] = {
    # dense
    "apertus": {},
    "arcee": {},
    "biogpt": {},
    "bitnet": {},
    "bloom": {},
    "codegen": {},
    "cohere": {},
    "ctrl": {"dff": 48},
    "cwm": {},
    "diffllama": {},
    "doge": {},
    "ernie4_5": {},
    "exaone4": {},
    "falcon": {"head_dim": DROP},
    "flint": {},
    "gemma": {},
    "glm": {},
    "glm4": {},
    "gpt-sw3": {},
    "gpt2": {},
    "gpt_bigcode": {},
    "gpt_neox": {},
    "gpt_neox_japanese": {},
    "gptj": {},
    "granite": {},
    "helium": {},
    "hunyuan_v1_dense": {},
    "hyperclovax": {},
    "internlm3": {},
    "iquestcoder": {},
    "jais2": {},
    "llama": {},
    "minicpm3": {"head_dim": 4},
    "mpt": {},
    "nanochat": {},
    "nemotron": {},
    "olmo": {},
    "olmo2": {},
    "openai-gpt": {},
    "opt": {},
    "persimmon": {},
    "phi": {},
    "qwen2": {},
    "qwen3": {},
    "seed_oss": {},
    "smollm3": {},
    "stablelm": {},
    "xglm": {},
    "youtu": _LATENT,
    # windows and soft caps
    "cohere2": {},
    "gemma2": {},
    "gemma3_text": {},
    "gemma3n_text": {
        "num_hidden_layers": 4, "num_kv_shared_layers": 2, "layer_types": ["sliding_attention", "full_attention"] * 2,
        "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY, "activation_sparsity_pattern": None,
    },
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "granite_swa": {},
    "ministral": {},
    "ministral3": {},
    "mistral": {},
    "modernbert-decoder": {"local_attention": WINDOW},
    "olmo3": {},
    "phi3": {},
    "starcoder2": {},
    "vaultgemma": {},
    # experts
    "afmoe": {},
    "aria_text": {},
    "cohere2_moe": {},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"head_dim": 4},
    "deepseek_v3": _LATENT,
    "deepseek_v32": {**_LATENT, "index_head_dim": 8, "index_n_heads": 2, "index_topk": 8},
    "deepseek_v4": {},
    "dots1": {},
    "ernie4_5_moe": {},
    "exaone_moe": {},
    "flex_olmo": {},
    "glm4_moe": {},
    "glm4_moe_lite": {"head_dim": 4},
    "gpt_oss": {},
    "granitemoe": {},
    "granitemoe_swa": {},
    "granitemoeshared": {},
    "hunyuan_v1_moe": {},
    "hy_v3": {},
    "jetmoe": {},
    "laguna": {},
    "llama4_text": {"attention_chunk_size": WINDOW},
    "longcat_flash": {
        **_LATENT, "zero_expert_num": 2, "moe_topk": 2, "expert_ffn_hidden_size": 16, "ffn_hidden_size": 48,
        "num_layers": 1,
    },
    "mellum": {},
    "mimo_v2_flash": {},
    "minimax_m2": {},
    "mixtral": {},
    "olmoe": {},
    "phimoe": {},
    "qwen2_moe": {},
    "qwen3_moe": {},
    "solar_open": {},
    # recurrent, and recurrent beside attention
    "bailing_hybrid": {"head_dim": 4, "layer_types": ["linear_attention", "full_attention"]},
    "bamba": {"attn_layer_indices": [1], "mamba_n_groups": 1},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_groups": 1},
    "falcon_mamba": {},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {
        "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1,
        "expert_layer_period": 2, "expert_layer_offset": 1,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "mamba": {},
    "mamba2": {"head_dim": 16, "expand": 2, "n_groups": 1, "chunk_size": 8},
    "minimax": {"layer_types": ["linear_attention", "full_attention"], "block_size": WINDOW},
    "nemotron_h": {
        "layers_block_type": ["mamba", "attention"], "mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 1,
    },
    "olmo_hybrid": {},
    "qwen3_5_moe_text": _LINEAR,
    "qwen3_5_text": _LINEAR,
    "qwen3_next": _LINEAR,
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 32, "attention_window_size": WINDOW},
    "rwkv": {},
    "zamba": {
        "num_hidden_layers": 4, "attention_hidden_size": 64, "attention_head_dim": 16,
        "layers_block_type": ["mamba", "hybrid"] * 2,
    },
    "zamba2": {
        "num_hidden_layers": 4, "mamba_headdim": 16, "n_mamba_heads": 4, "mamba_ngroups": 1,
        "layers_block_type": ["mamba", "hybrid"] * 2, "num_mem_blocks": 1, "adapter_rank": 8,
    },
    # decoders of encoder-decoder families, and encoders used as decoders
    "bert": {},
    "blenderbot-small": {"decoder_start_token_id": 1},
    "electra": {},
    "ernie": {},
    "marian": {"decoder_start_token_id": 1},
    "megatron-bert": {},
    "moshi": {},
    "opt-untied": {"tie_word_embeddings": False},
    "pegasus": {"decoder_start_token_id": 1},
    "rembert": {},
    "reformer": {
        "axial_pos_embds": False, "attn_layers": ["local", "lsh"], "attention_head_size": 8,
        "feed_forward_size": 32, "local_attn_chunk_length": 8, "lsh_attn_chunk_length": 8, "num_buckets": 4,
    },
    "roberta": {},
    "roformer": {},
    "xlm": {"causal": True, "emb_dim": 32},
    "xlm-roberta": {},
    "xlnet": {"max_position_embeddings": DROP},
    # the same families with another setting that matters
    "llama-tied": {"tie_word_embeddings": True},
    "mistral-no-window": {"sliding_window": None},
    "qwen2-window": {"use_sliding_window": True, "max_window_layers": 1},
    "phi3-no-window": {"sliding_window": None},
}  # fmt: skip

_VARIANTS = {"llama-tied": "llama", "mistral-no-window": "mistral", "opt-untied": "opt", "qwen2-window": "qwen2"}
_VARIANTS |= {"phi3-no-window": "phi3"}


def tiny_config(name: str) -> Any:
    """Return the configuration of a family: `COMMON` as far as the family has its keys, and the overrides."""
    model_type = _VARIANTS.get(name, name)
    default = AutoConfig.for_model(model_type)
    choice = {key: value for key, value in COMMON.items() if key in default.to_dict() or hasattr(type(default), key)}
    for alias, key in (getattr(type(default), "attribute_map", None) or {}).items():
        if alias != key and key in choice:
            choice.pop(alias, None)
    choice = {**choice, **FAMILIES[name]}
    config = AutoConfig.for_model(model_type, **{k: v for k, v in choice.items() if v is not DROP})
    config.eos_token_id = 2
    return config


def tiny_model(name: str, seed: int = 0) -> Any:
    """Return a seeded random model of a family, float32, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(tiny_config(name)).float().eval()
