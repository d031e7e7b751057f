"""`expunge import arcsf`: a study file that reads as any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from expunge.cli.compose import study_tree
from expunge.pipelines.study.config import decode_study
from expunge.pipelines.study.grid import cells

Run = Callable[..., tuple[int, str, str]]


def write(configs: Path) -> None:
    files = {
        "experiment/mine": {
            "combinations": {
                "data_config": ["split"], "train_config": ["short"], "seed": [1, 2],
                "forget_config": [["ascent", "short"], ["idk", "short"]],
            },
            "model_config": "tiny", "full_data_config": "full", "use_bask": True, "model_cache_dir": "/cache",
            "bask": {"walltime": "0-1:0:0", "gpu_number": 1, "node_number": 1},
        },
        "data/split": {"dataset_name": "tofu", "data_kwargs": {
            "granularity": "author", "forgotten_author_fraction": 0.1, "forgotten_fact_fraction": 0.0}},
        "data/full": {"dataset_name": "tofu", "data_kwargs": {
            "forgotten_author_fraction": 0.0, "forgotten_fact_fraction": 0.0}},
        "model/tiny/tiny": {"model_id": "some/model", "qa_formatter_kwargs": {
            "question_template": "Q: {question}\n", "answer_template": "A: {answer}"}},
        "model/tiny/hyperparameters/short": {"trainer_kwargs": {"num_train_epochs": 5}},
    }  # fmt: skip
    for name, value in files.items():
        (configs / name).parent.mkdir(parents=True, exist_ok=True)
        (configs / f"{name}.yaml").write_text(yaml.safe_dump(value, sort_keys=False))


def test_an_imported_study_reads_as_any_other(here: Path, expunge: Run) -> None:
    write(here / "configs")
    code, out, errors = expunge("import", "arcsf", "configs", "--out", "mine.yaml")
    assert code == 0, errors
    assert "2 full, 2 retain, 4 forget" in out
    assert "note: bask" in errors
    tree = study_tree(["study=mine.yaml", "launch.kind=local"])
    study = decode_study(tree)
    assert (study.name, study.launch.slurm.env) == ("mine", {"HF_HOME": "/cache"})
    task = [decode_study(cell.tree) for cell in cells(tree, study)]
    assert [s.seeds.train for s in task] == [(1,), (2,)]
    assert task[1].template_args.user_start_tag == "Q: "
    assert task[1].data.args["granularity"] == "author"
    code, _, errors = expunge("import", "arcsf", "configs", "--out", "mine.yaml")
    assert code == 2 and "mine.yaml" in errors
    code, _, errors = expunge("import", "arcsf", "configs", "--top", "mien", "--out", "other.yaml")
    assert code == 2 and "'mine'" in errors and len(errors.splitlines()) == 1
