"""Load models and tokenizers from a folder or a hub id: only safetensors, and no remote code by default."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from expunge.core.errors import ConfigError
from expunge.models.config import ADAPTER, ModelArgs, TokenizerArgs, check_source, looks_local
from expunge.models.interchange import add_older_forms
from expunge.models.passport import check_folder, check_trainable, quantisation

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """Return a device; `auto` is the first accelerator, or the CPU. Raises ConfigError for a device that is missing."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"model.device: {name!r} is not a device (allowed: auto, cpu, cuda, cuda:N)")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"model.device: {name!r}: this machine has no CUDA device (allowed: auto, cpu)")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"model.device: {name!r}: this machine has {torch.cuda.device_count()} CUDA devices, numbered from 0"
        )
    return device


Bits = Literal["nf4", "int8"]


def load_model(source: str, args: ModelArgs, *, device: torch.device, quantize: Bits | None = None) -> Any:
    """Load an AutoModelForCausalLM in evaluation mode, with its weights in `args.dtype`.

    Args:
        source: A folder or a hub id.
        args: The settings of loading.
        device: The device of the model, unless `args.device_map` spreads it.
        quantize: Quantise the linear weights except the LM head to 4 or 8 bits by bitsandbytes, without training them.

    Raises:
        ConfigError: If the model cannot be loaded, or if its files lack a tensor (which transformers would initialise
            at random).
    """
    check_source(source, "model.model_args.pretrained_model_name_or_path")
    check_folder(source, args)
    own = quantisation(source)
    if own is not None and quantize is not None:
        check_trainable(source)
    extra: dict[str, Any] = {} if quantize is None else _quantized(quantize, device)
    if own is not None and not args.device_map:
        extra["device_map"] = {"": device}
    if args.attn_implementation:
        extra["attn_implementation"] = args.attn_implementation
    if args.device_map:
        extra["device_map"] = args.device_map
    try:
        with _without_adapter(source) as folder:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=_DTYPES[args.dtype],
                trust_remote_code=args.trust_remote_code,
                revision=args.revision or "main",
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # rejected below, in one line
                output_loading_info=True,
                **extra,
            )
    except torch.OutOfMemoryError:
        raise
    except _LOAD_ERRORS as error:
        raise ConfigError(f"model {source}: cannot be loaded: {_first_line(error)}") from None
    model, info = loaded
    lacking = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    if lacking:
        raise ConfigError(
            f"model {source}: its safetensors lack, or have in another shape, {len(lacking)} of the tensors that its "
            f"config.json describes: {', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''}"
        )
    if quantize is not None:
        return _one_arithmetic(model).eval()
    if own is not None:
        return _one_arithmetic(model).eval()  # bitsandbytes loads it on its device
    if args.adapter == "apply" and _has_adapter(source):
        model = _with_adapter(model, source)
    if not args.device_map:
        torch.nn.Module.to(model, device)
    return model.eval()


# Configurations and the files of a model are checked in many places of transformers, which share no base class.
_LOAD_ERRORS = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ImportError, SafetensorError)


def _has_adapter(source: str) -> bool:
    return looks_local(source) and (Path(source).expanduser() / ADAPTER).is_file()


@contextlib.contextmanager
def _without_adapter(source: str) -> Iterator[str]:
    """Yield the source, or if its folder contains an adapter, a folder of links to the other files.

    transformers always applies an adapter in a model's folder, and has no option against it.
    """
    if not _has_adapter(source):
        yield _expand(source)
        return
    with tempfile.TemporaryDirectory() as place:
        for path in Path(source).expanduser().iterdir():
            if not path.name.startswith("adapter_"):
                (Path(place) / path.name).symlink_to(path.resolve())
        yield place


def _with_adapter(model: Any, source: str) -> Any:
    """Add the adapter of a folder to the weights. Raises ConfigError if it does not fit them."""
    from peft import PeftModel

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the path of the base model, which is this folder
            merged = PeftModel.from_pretrained(model, _expand(source)).merge_and_unload()
    except _LOAD_ERRORS as error:
        raise ConfigError(f"model {source}: its adapter does not fit its weights: {_first_line(error)}") from None
    merged.config._name_or_path = _expand(source)
    return merged.requires_grad_(True)  # peft freezes the weights that it puts an adapter on


def _quantized(bits: Bits, device: torch.device) -> dict[str, Any]:
    """Return the options of from_pretrained for a quantisation. Raises ConfigError if bitsandbytes cannot do it."""
    key = f"trainer.args.lora.quantize: {bits}"
    # it logs its way of computing products at import and at each forward
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import bitsandbytes
    except ImportError as error:
        raise ConfigError(f"{key} needs bitsandbytes: {_first_line(error)}; pip install 'expunge[quant]'") from None
    if device.type not in bitsandbytes.supported_torch_devices:
        raise ConfigError(f"{key}: bitsandbytes {bitsandbytes.__version__} does not support {device.type}")
    config = (
        BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
        if bits == "nf4"
        else BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)  # outliers would depend on the whole batch
    )
    return {"quantization_config": config, "device_map": {"": device}}


def _one_arithmetic(model: Any) -> Any:
    """Make quantised layers compute alike in training and in evaluation, because the reference is the trained network.

    On a CPU bitsandbytes does not. In evaluation it also rounds the inputs of 8-bit layers, and it repacks 4-bit
    weights into a format for inference only: a later backward gives zeros, and some widths have no such format.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        elif type(module).__name__ == "Linear8bitLt":
            module.register_forward_pre_hook(_in_training)
    return model


def _in_training(layer: Any, _args: Any) -> None:
    layer.train()


def load_tokenizer(source: str, args: TokenizerArgs) -> Any:
    """Load an AutoTokenizer; EOS becomes its pad token if it has none, which is safe because masks come from lengths.

    Raises:
        ConfigError: If the folder contains no tokenizer, or it cannot be loaded.
    """
    check_tokenizer(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            _expand(source), trust_remote_code=args.trust_remote_code, revision=args.revision or "main"
        )
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise ConfigError(f"tokenizer {source}: cannot be loaded: {_first_line(error)}") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_tokenizer(source: str) -> None:
    """Raise ConfigError unless a local folder contains a tokenizer. Loads nothing."""
    key = "model.tokenizer_args.pretrained_model_name_or_path"
    if not looks_local(source):
        return
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{key}: no folder {source}")
    if not any((folder / n).is_file() for n in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ConfigError(f"{key}: {source} contains no tokenizer (tokenizer.json or tokenizer.model)")


def context_of(source: str) -> int | None:
    """Return the maximum number of positions of a folder's model, by its configuration; None if it is unknown."""
    if not looks_local(source):
        return None
    try:
        config = AutoConfig.from_pretrained(_expand(source), trust_remote_code=False)
    except (OSError, ValueError, KeyError):
        return None  # loading the model reports the error
    return context_in(config)


def context_in(config: Any) -> int | None:
    """Return the maximum number of positions of a configuration; None if it sets no limit."""
    n = getattr(config.get_text_config(), "max_position_embeddings", None)
    return n if isinstance(n, int) and n > 0 else None


def save_model(model: Any, tokenizer: Any, folder: Path, *, dtype: str | None = None) -> None:
    """Write weights as safetensors, with configuration and tokenizer, as a plain Hugging Face folder.

    dtype: the dtype of the floating-point weights in the files (`models.saved_dtype`). None: the model's dtype. The
    model in memory does not change.
    """
    if dtype is None or model.dtype is _DTYPES[dtype]:
        model.save_pretrained(folder)
    else:
        model.save_pretrained(folder, state_dict=_cast(model.state_dict(), _DTYPES[dtype]))
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**config, "dtype": dtype}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    tokenizer.save_pretrained(folder)
    add_older_forms(folder)


def _cast(state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return a state with its floating-point tensors in a dtype; tied tensors stay one tensor."""
    cast: dict[tuple[int, torch.Size], torch.Tensor] = {}
    out: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.shape)
        if not tensor.is_floating_point():
            out[name] = tensor
            continue
        if key not in cast:
            cast[key] = tensor.detach().to(dtype)
        out[name] = cast[key]
    return out


def _expand(source: str) -> str:
    return os.path.expanduser(source) if looks_local(source) else source


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
