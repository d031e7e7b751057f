"""Runs of the authors' weight edits, by the file of their numbers."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import torch
from measure import case, definitions, tensor

Inputs = Mapping[str, Any]


@case("undo", "shrink")
def _(folder: Path, inputs: Inputs) -> Any:
    linear = torch.nn.Linear(3, 2).double()
    with torch.no_grad():
        linear.weight.copy_(tensor(inputs["weight"]))
        linear.bias.copy_(tensor(inputs["bias"]))
    _corruption(folder)(linear, noise_alpha=inputs["a"], noise_beta=inputs["beta"])
    return {"weight": linear.weight, "bias": linear.bias}


@case("undo", "noise")
def _(folder: Path, inputs: Inputs) -> Any:
    linear = torch.nn.Linear(*inputs["shape"][::-1]).double()
    torch.nn.init.zeros_(linear.weight)
    _corruption(folder)(linear, noise_alpha=inputs["a"], noise_beta=inputs["beta"])
    return {"max": float(linear.weight.abs().max()), "std": float(linear.weight.std())}


def _corruption(folder: Path) -> Any:
    code = definitions(folder / "src/tools/partial_distill_langarith.py", ["do_corruption"], {})
    return code.do_corruption


@case("lunar", "minimum")
def _(folder: Path, inputs: Inputs) -> Any:
    """The targets and the training of one down projection, until its loss no longer falls."""
    code = definitions(folder / "src/hook_for_unlearn.py", ["perturb_post_block_activations_forget"], {})
    prepare = definitions(folder / "src/dataset_utils.py", ["prepare_trainset_raw"], {}).prepare_trainset_raw
    train = definitions(
        folder / "src/estimated_net_utils.py",
        ["EstimatedNet", "train_multiple_layers", "ActivationDataset_multiple_layers"],
        {"tqdm": _Silent, "Dataset": torch.utils.data.Dataset, "print": lambda *_: None},
    )
    weight, declined, at_end = (tensor(inputs[key]) for key in ("weight", "declined", "forget_states"))
    keys = {side: [tensor(inputs[side])[None]] for side in ("forget", "retain")}
    outputs = {side: [rows[0] @ weight.T] for side, rows in keys.items()}
    zeros = {side: [torch.zeros_like(rows[0])] for side, rows in outputs.items()}
    # their blocks' outputs minus the inputs of the norm before the MLP are the outputs of its down projection
    moved = code.perturb_post_block_activations_forget(
        [rows[None].clone() for rows in outputs["forget"]], declined.mean(0) - at_end.mean(0), inputs["strength"]
    )
    x_f, y_f, x_r, y_r = prepare(
        keys["forget"], moved, [rows[None] for rows in zeros["forget"]], keys["retain"],
        [rows[None] for rows in outputs["retain"]], [rows[None] for rows in zeros["retain"]],
    )  # fmt: skip
    x_f, y_f, x_r, y_r = (rows.reshape(-1, rows.shape[-1]) for rows in (x_f, y_f, x_r, y_r))
    rows = train.ActivationDataset_multiple_layers([torch.cat([x_f, x_r])], [torch.cat([y_f, y_r])])
    loader = torch.utils.data.DataLoader(rows, batch_size=len(rows))
    net = train.EstimatedNet(weight.shape[1], weight.shape[0], False, weight).double()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.997)
    train.train_multiple_layers([net], loader, optimizer, schedule, device="cpu", num_epochs=5000)
    return net.down_proj.weight


class _Silent:
    def __init__(self, **_settings: Any) -> None: ...

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_error: object) -> None: ...

    def update(self, _n: int) -> None: ...

    def set_postfix(self, **_values: Any) -> None: ...


GPU = {"'cuda'": "'cpu'", ".cuda()": "", ".float()": ".double()", "dtype=torch.float,": "dtype=torch.double,"}
LAYERS = [0, 1]


def _toy(folder: Path) -> tuple[Any, dict[str, Any], Any]:
    """Return the toy model, the inputs and the targets of memit.json, and the authors' `util.nethook`."""
    from key_value_toy import Toy

    spec = spec_from_file_location("authors_nethook", folder / "util/nethook.py")
    assert spec is not None and spec.loader is not None
    nethook = module_from_spec(spec)
    spec.loader.exec_module(nethook)
    measured = json.loads(Path(__file__).with_name("memit.json").read_text(encoding="utf-8"))["cases"]["targets"]
    model = Toy(measured["inputs"]["parameters"])
    model.config = SimpleNamespace(n_embd=4, vocab_size=9)
    run = model.forward
    model.forward = lambda input_ids, attention_mask=None: run(input_ids)  # type: ignore[method-assign,assignment]
    return model, measured, nethook


@case("memit", "targets")
def _(folder: Path, inputs: Inputs) -> Any:
    targets = []
    for prompt, target in inputs["rows"]:
        model, _, nethook = _toy(folder)

        class Batch(dict[str, torch.Tensor]):
            def to(self, _device: str) -> Any:
                return self

        class Tokens:
            def __call__(self, texts: Any, **_settings: Any) -> Any:
                row = target if isinstance(texts, str) else [*prompt, *target[:-1]]  # noqa: B023
                ids = torch.tensor([row] * (1 if isinstance(texts, str) else len(texts)))
                return Batch(input_ids=ids, attention_mask=torch.ones_like(ids))

            def decode(self, _ids: Any) -> str:
                return ""

        end = len(prompt) - 1
        scope = {"nethook": nethook, "np": numpy, "find_fact_lookup_idx": lambda *_, end=end, **__: end}
        code = definitions(folder / "memit/compute_z.py", ["compute_z"], scope, GPU)
        settings = SimpleNamespace(
            lm_head_module="head", ln_f_module="norm", layer_module_tmp="layers.{}", v_loss_layer=2, fact_token="",
            v_lr=0.5, v_num_grad_steps=8, v_weight_decay=0.5, clamp_norm_factor=0.75, kl_factor=0,
        )  # fmt: skip
        request = {"prompt": "{}", "subject": "", "target_new": {"str": "x"}}
        targets.append(code.compute_z(model, Tokens(), request, settings, 1, [["{}"]]))
    return torch.stack(targets)


def _update_inputs(folder: Path) -> tuple[Any, dict[str, Any], Any, list[dict[str, Any]]]:
    """Return the toy model, names for the authors' code, its targets, and a request for each row."""
    model, measured, nethook = _toy(folder)
    prompts = [prompt for prompt, _ in measured["inputs"]["rows"]]
    targets = iter(tensor(measured["outputs"]))

    def states(_model: Any, _tok: Any, layer: int, *, module_template: str, **_words: Any) -> Any:
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

        def keep(_module: Any, args: Any, output: Any) -> None:
            pairs.append((args[0][0, -1], (output[0] if isinstance(output, tuple) else output)[0, -1]))

        handle = model.get_submodule(module_template.format(layer)).register_forward_hook(keep)
        for prompt in prompts:
            model(torch.tensor([prompt]))
        handle.remove()
        return tuple(torch.stack(side).detach() for side in zip(*pairs, strict=True))

    def keys(_model: Any, _tok: Any, _requests: Any, hparams: Any, layer: int, _templates: Any) -> Any:
        return states(None, None, layer, module_template=hparams.rewrite_module_tmp)[0]

    def covariance(_model: Any, _tok: Any, name: str, *_words: Any, **_settings: Any) -> Any:
        return tensor(measured["inputs"]["covariance"][LAYERS.index(int(name.split(".")[1]))])

    scope = {
        "nethook": nethook, "deepcopy": copy.deepcopy, "get_context_templates": lambda *_: [["{}"]], "Path": Path,
        "compute_z": lambda *_: next(targets), "compute_ks": keys, "get_module_input_output_at_words": states,
        "get_cov": covariance, "upd_matrix_match_shape": lambda m, shape: m if m.shape == shape else m.T,
    }  # fmt: skip
    requests = [{"case_id": i, "prompt": "{}", "subject": "", "target_new": {"str": "x"}} for i in range(len(prompts))]
    return model, scope, measured, requests


def _settings(**own: Any) -> Any:
    return SimpleNamespace(
        layers=LAYERS, layer_module_tmp="layers.{}", rewrite_module_tmp="layers.{}.mlp.down", fact_token="",
        mom2_dataset="", mom2_n_samples=0, mom2_dtype="", clamp_norm_factor=0.75, **own,
    )  # fmt: skip


@case("memit", "update")
def _(folder: Path, inputs: Inputs) -> Any:
    model, scope, _, requests = _update_inputs(folder)
    code = definitions(folder / "memit/memit_main.py", ["execute_memit"], scope, GPU)
    deltas = code.execute_memit(model, None, requests, _settings(mom2_update_weight=2))
    return {name: (keys @ residuals.T).T for name, (keys, residuals) in deltas.items()}


@case("alphaedit", "update")
def _(folder: Path, inputs: Inputs) -> Any:
    model, scope, _, requests = _update_inputs(folder)
    settings = _settings(L2=0.3, nullspace_threshold=0.6)
    project = definitions(folder / "experiments/evaluate.py", ["get_project"], scope, GPU).get_project
    free = torch.stack([project(model, None, layer, settings) for layer in LAYERS])
    code = definitions(folder / "AlphaEdit/AlphaEdit_main.py", ["apply_AlphaEdit_to_model"], scope, GPU)
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    code.apply_AlphaEdit_to_model(model, None, requests, settings, cache_c=torch.zeros_like(free), P=free)
    names = [f"layers.{layer}.mlp.down.weight" for layer in LAYERS]
    return {name: model.state_dict()[name] - before[name] for name in names}
