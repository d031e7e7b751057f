"""Build a model without weights, and load a tokenizer: a program for `core.limited`; it imports transformers alone."""

from __future__ import annotations

import warnings
from typing import Any

SAMPLE = "The capital of France is Paris, since 987.\n"


def main(request: dict[str, Any]) -> dict[str, str | None]:
    """Try the folders {model, tokenizer}, or None, with {attention, options, tokenizer_options}.

    Returns the fault of each, or None.
    """
    out: dict[str, str | None] = {}
    for name, trial in (("model", _model), ("tokenizer", _tokenizer)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                out[name] = trial(request) if request[name] else None
        except MemoryError:
            raise
        except Exception as error:  # each architecture checks its settings in its own way
            lines = (str(error).strip() or type(error).__name__).splitlines()
            text = " ".join(lines[: 1 + lines[0].endswith(":")])  # a line that ends so has its reason in the next one
            out[name] = " ".join(text.split())[:200]
    return out


def _model(request: dict[str, Any]) -> str | None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    extra = {"attn_implementation": request["attention"]} if request["attention"] else {}
    with torch.device("meta"):
        config, unused = AutoConfig.from_pretrained(
            request["model"], return_unused_kwargs=True, **request.get("options", {})
        )
        if unused:
            return f"{type(config).__name__} has no setting {', '.join(unused)}"
        AutoModelForCausalLM.from_config(config, **extra)
    return None


def _tokenizer(request: dict[str, Any]) -> str | None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(request["tokenizer"], **request.get("tokenizer_options", {}))
    ids = loaded(SAMPLE, add_special_tokens=False)["input_ids"]
    loaded.decode(ids)
    return None if ids else "a short English text has no tokens"
