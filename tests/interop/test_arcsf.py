"""arcsf's top configs as studies: the counts of its shipped experiments, names, settings and errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from expunge.core.errors import ConfigError
from expunge.data.template import Template
from expunge.interop.arcsf import import_arcsf
from expunge.pipelines.study.config import decode_study
from expunge.pipelines.study.grid import cells

FOUR = [["ascent", "longer"], ["difference", "longer"], ["idk", "longer"], ["kl", "longer"]]
BOTH = [[m, h] for m in ("ascent", "difference", "idk", "kl") for h in ("longer", "shorter")]
LEVELS = ("question", "book", "author", "publisher")
SHARES = (5, 10, 15, 20, 25)
ALL = [f"gen_tofu_{level}_{n}" for level in LEVELS for n in SHARES]
LINKS = [f"gen_tofu_rel_{n}" for n in range(1, 7)]
Lists = dict[str, list[Any]]


def lists(data: list[str], train: list[str], forget: list[list[str]], seeds: range) -> Lists:
    return {"data_config": data, "train_config": train, "forget_config": forget, "seed": list(seeds)}


def write(folder: Path, combinations: Lists, *, top: str = "mine", **more: Any) -> Path:
    """A configs folder of arcsf's layout."""
    files: dict[str, Any] = {
        f"experiment/{top}": {
            "combinations": combinations, "model_config": "gpt2", "full_data_config": "gen_tofu_full",
            "use_bask": False, **more,
        },
        "data/gen_tofu_full": gen("question", 0.0),
        "data/tofu_20_20": {"dataset_name": "tofu", "data_kwargs": {
            "granularity": "question", "stratified": True, "forget_random": True,
            "forgotten_author_fraction": 0.2, "forgotten_fact_fraction": 0.2}},
        "model/gpt2/gpt2": {
            "model_id": "gpt2", "model_kwargs": {"device_map": "auto"}, "add_padding_token": True,
            "qa_formatter_kwargs": {"question_template": "{question}", "answer_template": " {answer}<|endoftext|>"}},
        "model/gpt2/hyperparameters/shorter": hyper(5),
        "model/gpt2/hyperparameters/longer": hyper(25),
    }  # fmt: skip
    files |= {f"data/gen_tofu_{level}_{n}": gen(level, n / 100) for level in LEVELS for n in SHARES}
    files |= {f"data/gen_tofu_rel_{n}": gen("relationship", n / 100) for n in range(1, 7)}
    for name, value in files.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(value, sort_keys=False))
    return folder


def gen(level: str, share: float) -> dict[str, Any]:
    kind = "relationship" if level == "relationship" else "granularity"
    return {"dataset_name": "gen_tofu", "data_kwargs": {"type": kind, "granularity": level, "forget_fraction": share}}


def hyper(epochs: int) -> dict[str, Any]:
    return {"trainer_kwargs": {
        "per_device_train_batch_size": 16, "per_device_eval_batch_size": 16, "learning_rate": "5e-5",
        "num_train_epochs": epochs, "logging_steps": 0.2, "save_strategy": "epoch"}}  # fmt: skip


@pytest.mark.parametrize(
    ("combinations", "counts"),
    [
        (lists(["tofu_20_20"], ["shorter", "longer"], BOTH, range(42, 43)), (2, 2, 16)),
        (lists(ALL, ["longer"], FOUR, range(40, 45)), (5, 100, 400)),
        (lists(ALL[::5], ["longer"], FOUR, range(40, 45)), (5, 20, 80)),
        (lists(ALL[:17], ["longer"], BOTH, range(40, 45)), (5, 85, 680)),
        (lists(ALL[:12], ["longer"], FOUR[1:3], range(40, 41)), (1, 12, 24)),
        (lists(ALL[:3], ["longer"], BOTH[2:6], range(41, 45)), (4, 12, 48)),
        (lists(LINKS, ["longer"], FOUR, range(40, 50)), (10, 60, 240)),
        (lists(LINKS[::2], ["longer"], FOUR, range(40, 44)), (4, 12, 48)),
    ],
)
def test_the_shipped_top_configs_make_as_many_jobs(
    combinations: Lists, counts: tuple[int, int, int], tmp_path: Path
) -> None:
    imported = import_arcsf(write(tmp_path, combinations))
    assert tuple(imported.counts.values()) == counts
    tree = yaml.safe_load(imported.to_yaml())
    study = decode_study(tree)
    grid_cells = cells(tree, study)
    # one cell for each retain model; a full model for each training config and seed; the methods for each cell
    assert [c.name for c in grid_cells] == [f"experiment_{i}" for i in range(counts[1])]
    assert len({(c.values["training"], c.values["seed"]) for c in grid_cells}) == counts[0]
    assert len(grid_cells) * len(study.methods) == counts[2]


def test_experiments_are_numbered_as_there(tmp_path: Path) -> None:
    """train_config changes slowest, then the seed, then the split."""
    combinations = lists(["gen_tofu_book_5", "gen_tofu_rel_1"], ["shorter", "longer"], FOUR[:1], range(40, 42))
    tree = yaml.safe_load(import_arcsf(write(tmp_path, combinations)).to_yaml())
    grid_cells = cells(tree, decode_study(tree))
    assert [tuple(c.values.values()) for c in grid_cells[:3]] == [
        ("shorter", "seed40", "gen_tofu_book_5"), ("shorter", "seed40", "gen_tofu_rel_1"),
        ("shorter", "seed41", "gen_tofu_book_5"),
    ]  # fmt: skip
    study = decode_study(grid_cells[5].tree)
    assert (study.benchmark, study.seeds.train, study.seeds.unlearn) == ("gen_tofu", (40,), (40,))
    assert study.data.args == {"granularity": "relationship", "forget_fraction": 0.01, "compat": "arcsf", "seed": 40}
    assert (study.train.num_train_epochs, study.train.learning_rate) == (25, 5e-5)
    assert (study.train.gradient_accumulation_steps, study.train.weight_decay) == (1, 0.0)


def test_templates_models_and_methods(tmp_path: Path) -> None:
    imported = import_arcsf(write(tmp_path, lists(["tofu_20_20"], ["shorter"], BOTH, range(1))))
    study = decode_study(yaml.safe_load(imported.to_yaml()))
    assert study.model.source == "gpt2"
    tree = yaml.safe_load(imported.to_yaml())
    assert decode_study(cells(tree, study)[0].tree).data.args["compat"] == "arcsf"  # the same rows as there
    tags = {"user_start_tag": "", "user_end_tag": "", "asst_start_tag": " ", "asst_end_tag": ""}
    assert study.template_args == Template(apply_chat_template=False, **tags)
    assert study.methods[4].trainer == "IdkNLL"
    assert [m.label for m in study.methods[:2]] == ["ascent-longer", "ascent-shorter"]
    assert "logging_steps: 0.2" in imported.to_yaml()
    output = " ".join(imported.notes)
    for part in ("add_padding_token", "<|endoftext|>", "per_device_eval_batch_size"):
        assert part in output
    assert len(set(imported.notes)) == len(imported.notes)


def test_each_setting_without_counterpart_has_its_own_reason(tmp_path: Path) -> None:
    folder = write(tmp_path, lists(["tofu_20_20"], ["shorter"], FOUR[:1], range(1)))
    arguments = {"output_dir": "x", "save_strategy": "epoch", "report_to": "wandb", "eval_strategy": "epoch"}
    (folder / "model/gpt2/hyperparameters/shorter.yaml").write_text(yaml.safe_dump({"trainer_kwargs": arguments}))
    notes = [note for note in import_arcsf(folder).notes if note.startswith("trainer_kwargs.")]
    reasons = {note.split()[0].partition(".")[2]: note.partition(": ")[2] for note in notes}
    assert set(arguments) < set(reasons)
    assert reasons["output_dir"] == "a study names its models and their folders."
    assert "the last model is kept" in reasons["save_strategy"]
    assert "train.report_to" in reasons["report_to"]
    assert reasons["eval_strategy"] == "a study measures its models after training."


def test_adapters_early_stopping_and_the_cluster(tmp_path: Path) -> None:
    folder = write(
        tmp_path, lists(["tofu_20_20"], ["shorter"], FOUR[:1], range(1)), use_bask=True, model_cache_dir="/cache",
        bask={"walltime": "1-6:30:5", "gpu_number": 2, "node_number": 1}, wandb_kwargs={"use_wandb": True},
    )  # fmt: skip
    shorter = folder / "model/gpt2/hyperparameters/shorter.yaml"
    more = {
        "peft_kwargs": {"r": 4, "target_modules": ["c_attn"]},
        "early_stopping_kwargs": {"early_stopping_patience": 2},
    }
    shorter.write_text(yaml.safe_dump(hyper(5) | more))
    imported = import_arcsf(folder)
    study = decode_study(yaml.safe_load(imported.to_yaml()))
    slurm = study.launch.slurm
    assert (study.launch.kind, slurm.time_min, slurm.gpus, slurm.env) == ("slurm", 1831, 2, {"HF_HOME": "/cache"})
    args = decode_study(cells(dict(imported.tree), study)[0].tree).train
    assert args.lora is not None
    assert (args.lora.r, args.lora.lora_alpha, args.lora.target_modules) == (4, 8, ("c_attn",))
    stops = args.evaluate
    assert (stops.every, stops.patience, stops.keep) == (1.0, 2, "best")
    assert (stops.rule.forget, stops.rule.target, stops.rule.floor) == ("retain_Q_A_Prob", "high", 0.0)
    output = " ".join(imported.notes)
    assert "early stopping" in output and "Weights & Biases" in output


def test_the_type_that_transformers_would_choose_is_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path, lists(["tofu_20_20"], ["shorter"], FOUR[2:3], range(1)))
    path = folder / "model/gpt2/gpt2.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "model_kwargs": {"torch_dtype": "auto"}}))
    imported = import_arcsf(folder)
    assert decode_study(dict(imported.tree)).model.model_args.dtype == "float32"
    assert any("torch_dtype=auto" in note for note in imported.notes)


@pytest.mark.parametrize(
    ("file", "change", "parts"),
    [
        ("experiment/mine", {"modle_config": "gpt2"}, ("modle_config", "'model_config'")),
        ("experiment/mine", {"model_config": "gpt3"}, ("gpt3.yaml",)),
        ("experiment/mine", {"full_data_config": "tofu_20_20"}, ("full_data_config", "forget nothing")),
        ("data/tofu_20_20", {"dataset_name": "tofoo"}, ("tofu_20_20.yaml", "dataset_name", "'tofu'")),
        ("data/tofu_20_20", {"data_kwargs": {"granularty": 1}}, ("tofu_20_20.yaml", "granularty", "'granularity'")),
        ("data/tofu_20_20", {"data_kwargs": {"granularity": "author"}}, ("tofu_20_20.yaml", "forgets nothing")),
        ("model/gpt2/gpt2", {"qa_formatter_kwargs": {"question_template": "q"}}, ("gpt2.yaml", "{question}")),
        ("model/gpt2/hyperparameters/shorter", {"trainer_kwargs": {"learning_rat": 1}},
         ("shorter.yaml", "learning_rat", "'learning_rate'")),
    ],
)  # fmt: skip
def test_an_error_names_its_file(file: str, change: dict[str, Any], parts: tuple[str, ...], tmp_path: Path) -> None:
    folder = write(tmp_path, lists(["tofu_20_20"], ["shorter"], FOUR[:1], range(1)))
    path = folder / f"{file}.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(ConfigError) as caught:
        import_arcsf(folder)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)
