"""Load models and tokenizers from a folder or a hub id: only safetensors, and no remote code by default."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from expunge.core.errors import ConfigError, first_line, keys_named, kind_of
from expunge.core.on_use import import_model_base, torch, transformers
from expunge.models.config import (
    ADAPTER,
    MODEL_KEY,
    TOKENIZER_KEY,
    TOKENIZERS,
    ModelArgs,
    ModelConfig,
    TokenizerArgs,
    adapter_base,
    check_source,
    looks_local,
    only_as_folder,
    tokenizer_folder,
    weights_source,
)
from expunge.models.folder_settings import check_files
from expunge.models.identity import code_commit, has_wrapper, hub_file, pinned_revision, refuse_parts
from expunge.models.options import configuration_options, refuse
from expunge.models.passport import check_folder, check_lacking, check_trainable, lacking_refused, quantisation


def pick_device(name: str) -> torch.device:
    """Return a device; `auto` is CUDA, or else the CPU. Raises ConfigError for a device that is missing."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type == "cpu":
        return device
    if device.type not in ("cuda", "xpu", "mps"):
        raise ConfigError(f"model.device: {name!r} is not a device (allowed: auto, cpu, cuda, cuda:N, mps, xpu, xpu:N)")
    backend = getattr(torch, device.type)
    if not (torch.backends.mps.is_available() if device.type == "mps" else backend.is_available()):
        raise ConfigError(f"model.device: {name!r}: this machine has no {device.type.upper()} device; use auto or cpu")
    if (device.index or 0) >= backend.device_count():
        raise ConfigError(
            f"model.device: {name!r}: this machine has {backend.device_count()} {device.type.upper()} devices, "
            "numbered from 0"
        )
    return device


def may_have_cuda() -> bool:
    """Return whether this machine may have a CUDA device. Without its driver the answer needs no torch."""
    return any(Path(place).exists() for place in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")) or os.name == "nt"


def device_type(name: str) -> str:
    """Return the type of `pick_device(name)`: "cpu", "cuda", ... Without a CUDA driver, auto needs no torch."""
    on_cpu = not may_have_cuda() if name == "auto" else name == "cpu"
    return "cpu" if on_cpu else str(pick_device(name).type)


def with_scoring_dtype(model: ModelConfig) -> ModelConfig:
    """Return the model's settings with `dtype: auto` replaced by the dtype of its device. Raises ConfigError."""
    if model.model_args.dtype != "auto":
        return model
    dtype: Literal["float32", "bfloat16"] = "float32" if device_type(model.device) == "cpu" else "bfloat16"
    return dataclasses.replace(model, model_args=dataclasses.replace(model.model_args, dtype=dtype))


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
    refuse("model_args", args.options)
    check_source(source, MODEL_KEY)
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
    if args.trust_remote_code and (commit := code_commit(source)):
        extra["code_revision"] = commit
    extra |= args.options
    if not looks_local(source):
        refuse_parts(source, lambda name: hub_file(source, args.revision, name) is not None)
    import_model_base()
    try:
        with _without_adapter(source) as folder, _cache_if_unreachable(source), lacking_refused(source):
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=getattr(torch, args.dtype),
                trust_remote_code=args.trust_remote_code,
                revision=_revision(source, args.revision),
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # rejected below, in one line
                output_loading_info=True,
                **extra,
            )
    except (torch.OutOfMemoryError, ConfigError):
        raise
    except Exception as error:  # configurations are checked in many places, which share no base class
        raise _not_loaded("model", source, args.revision, error) from None
    model, info = loaded
    model = _ready(model, info, source, args, device, quantized=quantize is not None or own is not None)
    if device.type == "cpu" and args.dtype == "bfloat16" and args.batched:
        from expunge.models.bfloat16_attention import compute_attention_in_float32

        compute_attention_in_float32(model)
    if not has_wrapper(source):
        return model
    from expunge.models.wrapped import load_wrapped

    return load_wrapped(
        model, Path(source).expanduser(), lambda folder: load_model(str(folder), args, device=device, quantize=quantize)
    )


def _ready(
    model: Any, info: Mapping[str, Any], source: str, args: ModelArgs, device: torch.device, *, quantized: bool
) -> Any:
    """Return a loaded model with its adapter, on its device. Raises ConfigError for tensors that its files lack."""
    check_lacking(info, source)
    if quantized:
        return _one_arithmetic(model).eval()  # bitsandbytes loads it on its device
    if args.adapter == "apply" and _has(source, ADAPTER):
        model = _with_adapter(model, source)
    if not args.device_map:
        torch.nn.Module.to(model, device)
    return model.eval()


def _has(source: str, name: str) -> bool:
    return looks_local(source) and (Path(source).expanduser() / name).is_file()


def load_named(model: Any, where: str = "model") -> Any:
    """Return a model object, without `torch.compile` around it; load a name in float32 on the first accelerator.

    A compiled object has other names of modules and is read in slow ways. The model under it has the same weights.

    where: the argument that gives the model, for the errors. Raises ConfigError for an object that is (or wraps)
    no causal language model of transformers; for a part in `torch.compile`; for a name that cannot be loaded.
    """
    if not isinstance(model, str | Path):
        if not (hasattr(model, "config") and callable(getattr(model, "parameters", None))):
            raise ConfigError(f"{where}: expected a model or its name, got {kind_of(model)}")
        if all(p.is_meta for p in model.parameters()):
            raise ConfigError(f"{where}: the weights of {type(model).__name__} are not loaded (device meta)")
        inner = getattr(model, "_orig_mod", model)
        compiled = next((name for name, _ in inner.named_modules() if name.endswith("._orig_mod")), None)
        if compiled is not None:
            part = compiled.removesuffix("._orig_mod")
            raise ConfigError(f"{where}: torch.compile around {part} renames its weights; call its compile() instead")
        return inner
    with keys_named({MODEL_KEY: where, "model": where, f"model {model}": f"{where} {model}"}):
        return load_model(str(model), ModelArgs(), device=pick_device("auto"))


def load_named_tokenizer(source: str | Path, where: str) -> Any:
    """Load the tokenizer of a name. Raises ConfigError, with `where` for a folder that contains none."""
    check_tokenizer(str(source), where)
    return load_tokenizer(str(source), TokenizerArgs())


def require_tokenizer(tokenizer: Any, where: str) -> None:
    """Raise ConfigError for an object that is no tokenizer."""
    if not hasattr(tokenizer, "pad_token_id") or not callable(tokenizer):
        raise ConfigError(f"{where}: expected a tokenizer of transformers or its name, got {kind_of(tokenizer)}")


@contextlib.contextmanager
def _without_adapter(source: str) -> Iterator[str]:
    """Yield the source, or if its folder contains an adapter, a folder of links to the other files.

    transformers always applies an adapter in a model's folder, and has no option against it.
    """
    if adapter_base(source) or not _has(source, ADAPTER):
        yield _expand(weights_source(source))
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
    except Exception as error:  # configurations are checked in many places, which share no base class
        raise ConfigError(f"model {source}: its adapter does not fit its weights: {first_line(error)}") from None
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
        raise ConfigError(f"{key} needs bitsandbytes: {first_line(error)}; pip install 'expunge[quant]'") from None
    if device.type not in bitsandbytes.supported_torch_devices:
        raise ConfigError(f"{key}: bitsandbytes {bitsandbytes.__version__} does not support {device.type}")
    options: dict[str, Any] = (
        {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        if bits == "nf4"
        else {"load_in_8bit": True, "llm_int8_threshold": 0.0}  # outliers would depend on the whole batch
    )
    return {"quantization_config": transformers.BitsAndBytesConfig(**options), "device_map": {"": device}}


def _one_arithmetic(model: Any) -> Any:
    """Make quantised layers compute alike in training and in evaluation, because the reference is the trained network.

    On a CPU bitsandbytes does not. In evaluation it also rounds the inputs of 8-bit layers. It repacks 4-bit weights
    into a format for inference only: a later backward gives zeros, and some widths have no such format.
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
    refuse("tokenizer_args", args.options)
    check_tokenizer(source)
    source = tokenizer_folder(source)
    try:
        with _cache_if_unreachable(source):
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                _expand(source),
                trust_remote_code=args.trust_remote_code,
                revision=_revision(source, args.revision),
                **args.options,
            )
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise _not_loaded("tokenizer", source, args.revision, error) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _cache_if_unreachable(source: str) -> contextlib.AbstractContextManager[None]:
    if looks_local(source):
        return contextlib.nullcontext()
    from expunge.core.hub import cache_if_unreachable

    return cache_if_unreachable()


def check_tokenizer(source: str, key: str = TOKENIZER_KEY) -> None:
    """Raise ConfigError unless a local folder contains a tokenizer. Loads nothing.

    key: the setting or argument that names the tokenizer, for the error.
    """
    if not looks_local(source):
        return
    if tokenizer_folder(source) != source:
        check_source(source, key)
    source = tokenizer_folder(source)
    folder = Path(source).expanduser()
    if not looks_local(source):
        return
    if not folder.is_dir():
        raise ConfigError(f"{key}: no folder {source}")
    check_files(folder, source, key)
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise ConfigError(f"{key}: {source} contains no tokenizer (tokenizer.json or tokenizer.model)")
    if (folder / "tokenizer.model").is_file():
        from expunge.models.sentencepiece import needs_package

        if needs_package(folder):  # transformers would ask for tiktoken
            words = "is a vocabulary of SentencePiece, whose package is missing; pip install sentencepiece protobuf"
            raise ConfigError(f"{key}: {source}/tokenizer.model {words}")


def context_of(source: str, args: ModelArgs | None = None) -> int | None:
    """Return the maximum number of positions of a folder's model, by its configuration; None if it is unknown.

    args: settings of loading, whose options may override the configuration.
    """
    options = configuration_options(args.options) if args else {}
    source = weights_source(source)
    if not looks_local(source):
        return None
    try:
        config = transformers.AutoConfig.from_pretrained(_expand(source), trust_remote_code=False, **options)
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
    from expunge.models.folder_settings import add_older_forms

    if dtype is None or model.dtype is getattr(torch, dtype):
        model.save_pretrained(folder)
    else:
        model.save_pretrained(folder, state_dict=_cast(model.state_dict(), getattr(torch, dtype)))
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


def _revision(source: str, revision: str | None) -> str:
    """Return the commit of a hub id, if it is known. A folder has none."""
    return "main" if looks_local(source) else pinned_revision(source, revision) or "main"


def _not_loaded(noun: str, source: str, revision: str | None, error: Exception) -> ConfigError:
    """Return the error about a source that transformers refuses: a hub id may be the name of a missing folder."""
    if looks_local(source):
        return ConfigError(f"{noun} {source}: cannot be loaded: {first_line(error)}")
    if hub_file(source, revision, ADAPTER) is not None:
        return ConfigError(only_as_folder(source, "an adapter"))
    reason = f"there is no such folder{_near_folder(source)}, and {first_line(error)}"
    return ConfigError(f"{noun} {source}: cannot be loaded: {reason}")


def _near_folder(source: str) -> str:
    """Return a hint at a folder of a model next to a missing one, if its name is almost the same."""
    with contextlib.suppress(OSError, ValueError):
        folders = [str(path.parent) for path in Path(source).parent.glob("*/config.json")]
        if close := difflib.get_close_matches(source, folders, n=1, cutoff=0.75):
            return f" (did you mean '{close[0]}'?)"
    return ""


def _expand(source: str) -> str:
    return os.path.expanduser(source) if looks_local(source) else source
