from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, benchmark, settings, unused
from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.data.stories.shards import TokenDataset, dataset_folder, tokenizer_folder


@strict
@dataclass(frozen=True, kw_only=True)
class StoriesArgs:
    """Settings of `benchmark=stories`."""

    dataset_name: str | None = None
    """Name of the data set, such as filter-Twist; null if data.root is the data set."""
    split: Literal["pretrain", "finetune", "train", "all"] = "pretrain"
    """Part of the training shards: the first 80 % (pretrain), the others (finetune), both (train), or all documents."""
    rows: Literal["documents", "chunks", "bos_chunks"] = "bos_chunks"
    """Unit of the rows: documents, or chunks of the token stream, with or without a BOS token each."""
    scored: Literal["all", "story"] = "all"
    """Tokens with a loss: all, or the story without its instructions."""
    max_seq_len: int = 256
    """Number of tokens of a row."""
    eval_dataset_names: tuple[str, ...] = ()
    """Further data sets whose test loss is measured during training."""
    tokenizer: str | None = None
    """Folder of the tokenizer, if it is not next to the stories."""

    def __post_init__(self) -> None:
        if self.max_seq_len < 2:
            raise ValueError("max_seq_len must be at least 2 tokens")
        if self.scored == "story" and self.rows != "documents":
            raise ValueError("scored must be all with these rows; story requires rows=documents")
        if len(set(self.eval_dataset_names)) < len(self.eval_dataset_names) or "test" in self.eval_dataset_names:
            raise ValueError("eval_dataset_names must be different names other than test")


@benchmark(
    "stories", about="token shards of stories (`expunge data stories pretokenize`), to pretrain and fine-tune on"
)
def stories(config: BenchmarkConfig) -> Benchmark:
    """Build a data set of tokens from `expunge data stories`; rows are read from a memory map on demand.

    data.root: the folder of the data sets (stories/tok2048), or one of them. data.args: dataset_name (filter-Twist;
    required unless data.root is the data set), split (pretrain, the first 80 % of the training shards; finetune, the
    others; train, both; all), rows (bos_chunks, chunks, documents), scored (all, or story: without the instructions),
    max_seq_len (256), eval_dataset_names (further data sets to evaluate). tokenizer: the folder of the tokenizer, if it
    is not next to the stories. A model from scratch uses this tokenizer; an existing model must have it.

    Nothing is measured at the end. During training (trainer.args.evaluate.steps=500) the mean token loss is measured on
    `test`, the data set's test documents, and on those of each of eval_dataset_names. trainer.args.evaluate.prompts=8
    adds stories generated from as many of their prompts.

    Try: expunge train experiment=stories/pretrain data.root=stories/tok8192 data.args.dataset_name=filter-Twist \
        task_name=control
    """
    unused(
        config, "stories", "forget_split", "retain_split", "holdout_split", "data_split", "forget", "retain",
        "background",
    )  # fmt: skip
    args = settings(config, StoriesArgs)
    if config.root is None:
        raise ConfigError(
            "data.root: missing; name the folder of the data sets from `expunge data stories pretokenize`"
        )
    root = Path(config.root).expanduser()
    folder = dataset_folder(root, args.dataset_name, "data.args.dataset_name")
    tokenizer = tokenizer_folder(folder, args.tokenizer)
    places = {"test": folder}
    for i, name in enumerate(args.eval_dataset_names):
        places[name] = dataset_folder(folder.parent, name, f"data.args.eval_dataset_names[{i}]")
        tokenizer_folder(places[name], str(tokenizer))  # rejects another tokenizer
    sets = {
        "full": TokenDataset(
            "full", (), max_length=args.max_seq_len, folder=folder, split=args.split, cut=args.rows,
            scored=args.scored, tokenizer=tokenizer,
        )
    }  # fmt: skip
    for name, place in places.items():
        sets[name] = TokenDataset(
            name, (), max_length=args.max_seq_len, folder=place, split="test", scored=args.scored, tokenizer=tokenizer
        )
    for rows in sets.values():
        rows.documents  # noqa: B018  # rejects a damaged folder, or one without rows of the split
    return Benchmark(
        name="stories",
        split=folder.name,
        sets=sets,
        panel=(),
        full_sets=("full",),
        retain_sets=(),
        shown_set=None,
        eval_name="STORIES",
        tokenizer=str(tokenizer),
        loss_sets=tuple(places),
    )
