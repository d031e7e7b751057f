"""Build a model without weights, and load a tokenizer: a program for `core.limited`; it imports transformers alone."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

SAMPLE = "The capital of France is Paris, since 987.\n"


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Try the folders {model, tokenizer}, or None, with {attention, options, tokenizer_options}.

    code: run the own code of the model's folder.

    Returns the fault of each, or None, and under "parts" the names of the model's parts (`trial.ModelParts`).
    """
    out: dict[str, Any] = {}

    def model_of(request: dict[str, Any]) -> str | None:
        fault, out["parts"] = _model(request)
        return fault

    for name, trial in (("model", model_of), ("tokenizer", _tokenizer)):
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


def _model(request: dict[str, Any]) -> tuple[str | None, dict[str, Any] | None]:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    extra: dict[str, Any] = {"trust_remote_code": bool(request.get("code"))}
    if request["attention"]:
        extra["attn_implementation"] = request["attention"]
    with torch.device("meta"):
        config, unused = AutoConfig.from_pretrained(
            request["model"],
            return_unused_kwargs=True,
            trust_remote_code=extra["trust_remote_code"],
            **request.get("options", {}),
        )
        if unused:
            return f"{type(config).__name__} has no setting {', '.join(unused)}", None
        model = AutoModelForCausalLM.from_config(config, **extra)
    return None, _parts(model)


def _parts(model: Any) -> dict[str, Any]:
    """Return the names of the modules, each with marks, of the parameters, and the number of layers.

    Marks: M has a weight matrix, L is linear, T shares its weight with the embeddings.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    modules: dict[str, str] = {}
    embeddings = None
    with contextlib.suppress(NotImplementedError, AttributeError):  # the model has none under the usual names
        embeddings = model.get_input_embeddings()
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        is_tied = module is not embeddings and weight is not None and weight is getattr(embeddings, "weight", None)
        is_matrix = isinstance(weight, torch.Tensor) and weight.dim() == 2
        marks = {"M": is_matrix, "L": isinstance(module, torch.nn.Linear | Conv1D), "T": is_tied}
        modules[name] = "".join(mark for mark, is_so in marks.items() if is_so)
    lists = [len(module) for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    return {"modules": modules, "parameters": parameters, "layers": max(lists, default=0)}


def _tokenizer(request: dict[str, Any]) -> str | None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(request["tokenizer"], **request.get("tokenizer_options", {}))
    ids = loaded(SAMPLE, add_special_tokens=False)["input_ids"]
    loaded.decode(ids)
    return None if ids else "a short English text has no tokens"
