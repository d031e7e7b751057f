"""The shipped grids: as many jobs as the loops they stand for, and settings that are read."""

from __future__ import annotations

from expunge.cli.compose import study_tree
from expunge.pipelines.study.config import decode_study, unlearn_args
from expunge.pipelines.study.grid import cells


def test_tofu_baselines() -> None:
    tree = study_tree(["study=tofu_baselines"])
    study = decode_study(tree)
    task = [decode_study(cell.tree) for cell in cells(tree, study)]
    assert len(task) == 9 and len(study.methods) == 6
    assert len({s.model.source for s in task}) == 3
    assert all(s.template_args.apply_chat_template for s in task)
    for i in range(6):
        args = unlearn_args(study, i, 0)
        assert (args.rows_per_step, args.learning_rate, args.num_train_epochs) == (32, 1e-5, 10)


def test_muse_baselines() -> None:
    tree = study_tree(["study=muse_baselines"])
    study = decode_study(tree)
    task = [decode_study(cell.tree) for cell in cells(tree, study)]
    assert [(s.benchmark, s.data_split) for s in task] == [("muse", "News"), ("muse", "Books")]
    assert len(study.methods) == 5
    assert unlearn_args(study, 0, 0).lr_scheduler_type == "constant"
