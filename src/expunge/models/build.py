"""Build a small Llama from scratch, and a byte-level BPE tokenizer from text. Same seed and text, same bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from expunge.core.on_use import transformers
from expunge.models.config import PRESETS

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, max_length: int, by_line: bool = False
) -> transformers.PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with <pad> 0, <bos> 1, <eos> 2, which can encode every text.

    Args:
        texts: The training texts.
        vocab_size: The number of tokens.
        max_length: The maximum length that the tokenizer declares.
        by_line: Make each line break and each digit a separate token, so a text's ids are its lines' ids, joined.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if by_line:
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split("\n", "isolated"),
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD, BOS, EOS],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, core.token_to_id(BOS))]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


def build_llama(preset: str, tokenizer: Any, *, vocab_size: int, seed: int) -> transformers.LlamaForCausalLM:
    """Initialise a Llama of a preset's shape, in float32, from `seed` alone."""
    shape = PRESETS[preset]
    config = transformers.LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_hidden_layers,
        num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_attention_heads,
        max_position_embeddings=shape.max_position_embeddings,
        rms_norm_eps=1e-5 if shape.published else 1e-6,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.LlamaForCausalLM(config)
    if shape.published:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.endswith(("o_proj.weight", "up_proj.weight")):
                    weight.div_(math.sqrt(2 * shape.num_hidden_layers))
    return model
