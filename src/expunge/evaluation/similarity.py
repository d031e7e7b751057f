"""Similarity of generations to answers, by an embedding model: mean pooling and cosine."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch

from expunge.core.errors import ConfigError, first_line
from expunge.core.hub import cache_if_unreachable
from expunge.core.records import SIMILARITY, GeneratedTexts
from expunge.data.batch import budget_batches
from expunge.models.config import looks_local
from expunge.models.identity import pinned_revision
from expunge.models.passport import check_lacking, lacking_refused

KEY = "eval.embedder"
POOLER = r"(.*\.)?pooler\..*"  # tensors that only other outputs of an encoder need
MAX_LENGTH = 256


class Embedder:
    """A sentence encoder: the mean of the last hidden states over a text's tokens, as unit vectors.

    Raises:
        ConfigError: If `source` (a folder or hub id) contains no encoder and tokenizer, or its files lack a tensor.
    """

    def __init__(self, source: str, device: torch.device) -> None:
        from transformers import AutoModel, AutoTokenizer

        local = looks_local(source)
        place = os.path.expanduser(source) if local else source
        revision = "main" if local else pinned_revision(source, None) or "main"
        try:
            with contextlib.nullcontext() if local else cache_if_unreachable():
                self._tokenizer: Any = AutoTokenizer.from_pretrained(place, revision=revision)
                how: Any = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
                with lacking_refused(source, unless=POOLER):
                    model, info = AutoModel.from_pretrained(place, revision=revision, **how)
            check_lacking(info, source, unless=POOLER)
        except ConfigError as error:
            raise ConfigError(f"{KEY}: {error}") from None
        except Exception as error:  # the tokenizers library raises bare Exceptions
            raise ConfigError(f"{KEY}: {source} cannot be loaded: {first_line(error)}") from None
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._model = model.to(device).eval()
        limit = getattr(model.config, "max_position_embeddings", MAX_LENGTH) or MAX_LENGTH
        self._limit = min(MAX_LENGTH, int(limit))

    def __call__(self, texts: Sequence[str], *, token_budget: int = 8192) -> dict[str, torch.Tensor]:
        """Return each distinct text's unit vector, in float64. A text without tokens has none."""
        distinct = sorted(set(texts))
        ids = {t: self._tokenizer(t, truncation=True, max_length=self._limit)["input_ids"] for t in distinct}
        nonempty = [t for t in distinct if t.strip() and ids[t]]
        out: dict[str, torch.Tensor] = {}
        device = next(self._model.parameters()).device
        with torch.inference_mode():
            for part in budget_batches(nonempty, [len(ids[t]) for t in nonempty], token_budget):
                width = max(len(ids[t]) for t in part)
                batch = torch.full((len(part), width), int(self._tokenizer.pad_token_id or 0), dtype=torch.long)
                mask = torch.zeros((len(part), width), dtype=torch.long)
                for i, text in enumerate(part):
                    batch[i, : len(ids[text])] = torch.tensor(ids[text])
                    mask[i, : len(ids[text])] = 1
                hidden = self._model(input_ids=batch.to(device), attention_mask=mask.to(device)).last_hidden_state
                mean = (hidden * mask.to(device)[:, :, None]).sum(1) / mask.to(device).sum(1, keepdim=True)
                unit = torch.nn.functional.normalize(mean.cpu().double(), dim=-1)
                out |= dict(zip(part, unit, strict=True))
        return out


def score_similarity(embedder: Embedder, texts: GeneratedTexts, variants: Sequence[str]) -> pa.Table:
    """Return a SIMILARITY table of each generation with each named answer or span of its row, sorted."""
    pairs = [(t, v, t.reference) for v in variants for t in texts.naming(v)]
    vectors = embedder([*(t.generation for t, _, _ in pairs), *(truth for _, _, truth in pairs)])
    lines = [
        {
            "row_id": text.row_id,
            "sample": text.sample,
            "variant": variant,
            "cosine": float(vectors[text.generation] @ vectors[truth])
            if text.generation in vectors and truth in vectors
            else math.nan,
        }
        for text, variant, truth in pairs
    ]
    lines.sort(key=lambda line: (line["row_id"], line["sample"], line["variant"]))
    return pa.Table.from_pylist(lines, schema=SIMILARITY)
