"""A checkpoint of llama2.c gives the same logits as a Llama of transformers."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.models.sentencepiece_file import model_file

from expunge.cli.main import main
from expunge.core.errors import DataError
from expunge.models.build import train_tokenizer
from expunge.models.config import ModelArgs, TokenizerArgs
from expunge.models.llama2c import load_checkpoint, to_llama
from expunge.models.load import load_model, load_tokenizer

SIZE, DIM, HEADS, KV, LAYERS, HIDDEN = 270, 32, 4, 2, 2, 48


def checkpoint(kind: str = "plain") -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def matrix(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / shape[-1] ** 0.5

    weights = {"tok_embeddings.weight": matrix(SIZE, DIM), "norm.weight": 1 + matrix(DIM)}
    weights["output.weight"] = matrix(SIZE, DIM) if kind == "untied" else weights["tok_embeddings.weight"]
    for i in range(LAYERS):
        own = {
            "attention.wq": matrix(DIM, DIM), "attention.wk": matrix(DIM * KV // HEADS, DIM),
            "attention.wv": matrix(DIM * KV // HEADS, DIM), "attention.wo": matrix(DIM, DIM),
            "feed_forward.w1": matrix(HIDDEN, DIM), "feed_forward.w2": matrix(DIM, HIDDEN),
            "feed_forward.w3": matrix(HIDDEN, DIM), "attention_norm": 1 + matrix(DIM), "ffn_norm": 1 + matrix(DIM),
        }  # fmt: skip
        weights |= {f"layers.{i}.{name}.weight": weight for name, weight in own.items()}
        if kind == "masked":  # a buffer of PyTorch before 2.0
            weights[f"layers.{i}.attention.mask"] = torch.full((1, 1, 64, 64), float("-inf")).triu(1)
    prefix = "_orig_mod." if kind == "compiled" else ""
    return {
        "model": {prefix + name: weight for name, weight in weights.items()},
        "model_args": {
            "dim": DIM, "n_layers": LAYERS, "n_heads": HEADS, "n_kv_heads": KV, "vocab_size": SIZE, "multiple_of": 16,
            "max_seq_len": 64, "dropout": 0.1,
        },
        "iter_num": 12, "best_val_loss": 1.5, "config": {"out_dir": "out"},
    }  # fmt: skip


def plain_logits(content: dict[str, Any], ids: torch.Tensor) -> torch.Tensor:
    """The published architecture in plain steps: rotations of neighbouring pairs as complex numbers."""
    w, size = content["model"], DIM // HEADS

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight

    def rotate(x: torch.Tensor) -> torch.Tensor:  # [T, heads, size]
        angles = torch.arange(len(x))[:, None] / 10000 ** (torch.arange(0, size, 2) / size)
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)[:, None]).flatten(-2)

    h = w["tok_embeddings.weight"][ids]
    for i in range(LAYERS):
        a, f = f"layers.{i}.attention", f"layers.{i}.feed_forward"
        x = norm(h, w[f"{a}_norm.weight"])
        q = rotate((x @ w[f"{a}.wq.weight"].T).view(-1, HEADS, size))
        k = rotate((x @ w[f"{a}.wk.weight"].T).view(-1, KV, size)).repeat_interleave(HEADS // KV, 1)
        v = (x @ w[f"{a}.wv.weight"].T).view(-1, KV, size).repeat_interleave(HEADS // KV, 1)
        scores = torch.einsum("qhd,khd->hqk", q, k) / size**0.5
        scores = scores.masked_fill(torch.ones_like(scores).triu(1) > 0, float("-inf")).softmax(-1)
        h = h + torch.einsum("hqk,khd->qhd", scores, v).flatten(1) @ w[f"{a}.wo.weight"].T
        x = norm(h, w[f"layers.{i}.ffn_norm.weight"])
        h = h + (F.silu(x @ w[f"{f}.w1.weight"].T) * (x @ w[f"{f}.w3.weight"].T)) @ w[f"{f}.w2.weight"].T
    return norm(h, w["norm.weight"]) @ w["output.weight"].T


def vocabulary(folder: Path) -> Path:
    file = folder / "tok270.model"
    file.write_bytes(model_file(("\u2581a", "bc", "\u2581abc", "cb", "ab", "ca"), "\u2581abcd"))
    return file


@pytest.mark.parametrize("kind", ["plain", "compiled", "masked", "untied"])
def test_the_command_writes_a_model_with_the_same_logits(tmp_path: Path, kind: str) -> None:
    content = checkpoint(kind)
    torch.save(content, tmp_path / "ckpt.pt")
    out = tmp_path / "model"
    words = [
        "import",
        "llama2c",
        str(tmp_path / "ckpt.pt"),
        "--tokenizer",
        str(vocabulary(tmp_path)),
        "--out",
        str(out),
    ]
    assert main(words) == 0
    model = load_model(str(out), ModelArgs(), device=torch.device("cpu"))
    ids = torch.tensor([1, 40, 261, 265, 3, 269, 100])
    with torch.no_grad():
        ours = model(ids[None]).logits[0]
    torch.testing.assert_close(
        ours, plain_logits(checkpoint("untied" if kind == "untied" else "plain"), ids), rtol=1e-4, atol=1e-4
    )
    assert load_tokenizer(str(out), TokenizerArgs())("abc")["input_ids"] == [1, 261]


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"model": {}, "model_args": {}, "config": Trap()}, tmp_path / "ckpt.pt")
    with pytest.raises(DataError, match=r"tensors and plain values: it has an object of posix.mkdir, whose code would"):
        load_checkpoint(tmp_path / "ckpt.pt")
    assert not (tmp_path / "ran").exists()
    for content in (pickle.dumps([Trap()], protocol=4), b"", b"text"):
        (tmp_path / "ckpt.pt").write_bytes(content)
        with pytest.raises(DataError, match="not a checkpoint of tensors and plain values: ") as problem:
            load_checkpoint(tmp_path / "ckpt.pt")
        assert "weights_only" not in str(problem.value) and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 34}, "model_args has dim 34, 4 n_heads and 2 n_kv_heads; each must be a multiple of the next"),
        ({"n_kv_heads": 3}, "each must be a multiple of the next"),
        ({"n_heads": 8}, r"layers.0.attention.wk.weight has the shape \(16, 32\); by model_args it is \(8, 32\)"),
        ({"n_layers": 3}, "the weights lack model.layers.2"),
        ({"n_layers": 1}, "it has the weights of 2 layers, and n_layers of model_args is 1$"),
        ({"n_kv_heads": -2}, "n_kv_heads of model_args must be a whole number of at least 1, got -2$"),
        ({"n_kv_heads": "2"}, "n_kv_heads of model_args must be a whole number of at least 1, got '2'$"),
        ({"max_seq_len": 0}, "max_seq_len of model_args must be a whole number of at least 1, got 0$"),
        ({"norm_eps": "x"}, "norm_eps of model_args must be a number above 0 and below 1, got 'x'$"),
    ],
)
def test_a_shape_of_another_model(change: dict[str, Any], message: str) -> None:
    class Vocabulary:
        bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

        def __len__(self) -> int:
            return SIZE

    content = checkpoint()
    content["model_args"] |= change
    with pytest.raises(DataError, match=rf"^ckpt: .*{message}"):
        to_llama(content, Vocabulary(), "ckpt")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"norm.weight": [1.0]}, "the entry 'norm.weight' of model is not a tensor with a name"),
        ({7: torch.ones(3)}, "the entry 7 of model is not a tensor with a name"),
        ({"norm.weight": torch.full((DIM,), torch.nan)}, "norm.weight has values that are not finite numbers"),
    ],
)
def test_damaged_weights(entry: dict[Any, Any], message: str) -> None:
    content = checkpoint()
    content["model"] |= entry
    with pytest.raises(DataError, match=rf"^ckpt: {message}$"):
        to_llama(content, None, "ckpt")


def test_wrong_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weights": {}}, tmp_path / "a.pt")
    with pytest.raises(DataError, match="entries model and model_args"):
        load_checkpoint(tmp_path / "a.pt")
    with pytest.raises(DataError, match=r"a vocabulary of 270 tokens, and the tokenizer has 300"):
        to_llama(
            checkpoint(), train_tokenizer(["abc"] * 9 + [chr(i) * 2 for i in range(256, 320)], 300, max_length=8), "c"
        )
    vocabulary(tmp_path)
    assert main(["import", "llama2c", str(tmp_path / "a.pt"), "--out", str(tmp_path / "m")]) == 2
    assert "--tokenizer: missing" in capsys.readouterr().err


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ckpt.pt")
    with pytest.raises(DataError, match=r"ckpt\.pt is a folder, a device or a pipe; name a file$"):
        load_checkpoint(tmp_path / "ckpt.pt")
