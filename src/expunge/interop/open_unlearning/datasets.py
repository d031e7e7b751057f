"""OpenUnlearning's data sets by name: the benchmark and the side that each stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

BENCHMARKS = ("tofu", "muse", "wmdp")


@dataclass(frozen=True)
class Dataset:
    """One of its data sets.

    side: forget, retain, or empty if only evaluations read it. split_key: the key that names the split. train_split:
    the split of `expunge train`. word: a further word with the same meaning here. trainers: the methods that read it.
    fixed: keys with the only value that they can have.
    """

    benchmark: str
    side: str = ""
    split_key: str = "args.hf_args.name"
    train_split: str = ""
    word: str = ""
    trainers: tuple[str, ...] = ()
    handlers: tuple[str, ...] = ("QADataset",)
    fixed: Mapping[str, str] = field(default_factory=dict)


_QA = {
    "args.question_key": "question",
    "args.answer_key": "answer",
    "args.hf_args.split": "train",
    "args.hf_args.path": "locuslab/TOFU",
}
_TEXT = {"args.text_key": "text", "args.hf_args.name": "raw"}
_CORPUS = {"args.text_key": "text", "args.hf_args.path": "text", "args.hf_args.split": "train"}
_IDK = ("DPO", "IdkDPO", "IdkNLL")
DATASETS: Mapping[str, Dataset] = {
    "TOFU_QA_full": Dataset("tofu", train_split="full", fixed=_QA),
    "TOFU_QA_forget": Dataset("tofu", "forget", train_split="forget", fixed=_QA),
    "TOFU_QA_forget_idk": Dataset(
        "tofu", "forget", word="trainer=DPO", trainers=_IDK, handlers=("QAwithIdkDataset",),
        fixed={**_QA, "args.idk_path": "./data/idk.jsonl", "args.return_original": "true"},
    ),
    "TOFU_QA_retain": Dataset("tofu", "retain", train_split="retain", fixed=_QA),
    "MUSE_train": Dataset(
        "muse", split_key="args.hf_args.split", train_split="full", handlers=("PretrainingDataset",), fixed=_TEXT
    ),
    "MUSE_forget": Dataset(
        "muse", "forget", split_key="args.hf_args.split", handlers=("PretrainingDataset",), fixed=_TEXT
    ),
    "MUSE_forget_scal": Dataset(
        "muse", "forget", split_key="args.hf_args.split", word="data.args.series=scal",
        handlers=("PretrainingDataset",), fixed={**_TEXT, "args.hf_args.name": "scal"},
    ),
    "MUSE_forget_sust": Dataset(
        "muse", "forget", split_key="args.hf_args.split", word="data.args.series=sust",
        handlers=("PretrainingDataset",), fixed={**_TEXT, "args.hf_args.name": "sust"},
    ),
    "MUSE_retain": Dataset(
        "muse", "retain", split_key="args.hf_args.split", handlers=("PretrainingDataset",), fixed=_TEXT
    ),
    "WMDP_forget": Dataset("wmdp", "forget", split_key="", handlers=("PretrainingDataset",), fixed=_CORPUS),
    "WMDP_retain": Dataset("wmdp", "retain", split_key="", handlers=("PretrainingDataset",), fixed=_CORPUS),
}  # fmt: skip
