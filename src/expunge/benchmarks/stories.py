from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expunge.benchmarks.api import Benchmark, BenchmarkConfig, benchmark, settings, unused
from expunge.core.decode import strict
from expunge.core.errors import ConfigError
from expunge.data.stories import TokenDataset, dataset_folder, tokenizer_folder


@strict
@dataclass(frozen=True, kw_only=True)
class StoriesArgs:
    """Settings of `benchmark=stories`."""

    dataset_name: str | None = None
    """The data set below data.root, such as filter-Twist. None: data.root is the data set."""
    split: Literal["pretrain", "finetune", "train", "all"] = "pretrain"
    """pretrain (the first 80 % of the training shards), finetune (the others), train (both) or all."""
    rows: Literal["documents", "chunks", "bos_chunks"] = "bos_chunks"
    """How stories become rows: documents, chunks, or chunks that begin with BOS."""
    scored: Literal["all", "story"] = "all"
    """all tokens, or those of the story alone, without its instructions."""
    max_seq_len: int = 256
    """Tokens of a row at most."""
    eval_dataset_names: tuple[str, ...] = ()
    """Further data sets whose token loss is read."""
    tokenizer: str | None = None
    """The tokenizer's folder, if it is not stored with the stories."""

    def __post_init__(self) -> None:
        if self.max_seq_len < 2:
            raise ValueError("max_seq_len must be at least 2 tokens")
        if self.scored == "story" and self.rows != "documents":
            raise ValueError("scored must be all with these rows; story goes with rows=documents")
        if len(set(self.eval_dataset_names)) < len(self.eval_dataset_names) or "test" in self.eval_dataset_names:
            raise ValueError("eval_dataset_names must be different ones, and none is called test")


@benchmark(
    "stories", about="token shards of stories (`expunge data stories pretokenize`), to pretrain and fine-tune on"
)
def stories(wanted: BenchmarkConfig) -> Benchmark:
    """A data set of tokens, made by `expunge data stories`: rows are read from a memory map when they are asked for.

    data.root: the folder of the data sets (stories/tok2048), or one of them. data.args: dataset_name (filter-Twist;
    needed unless data.root is the data set), split (pretrain, the first 80 % of the training shards; finetune, the
    others; train, both; all), rows (bos_chunks, chunks, documents), scored (all, or story: the instructions are not),
    max_seq_len (256), eval_dataset_names (further data sets beside it). tokenizer: the folder of the tokenizer, where
    it does not lie with the stories. A model from scratch takes this tokenizer; a given model must have it.

    Nothing is measured at the end. During training (trainer.args.evaluate.steps=500) the mean token loss of `test`, the
    data set's test documents, and of those of each of eval_dataset_names is read; trainer.args.evaluate.prompts=8 adds
    stories told from as many of their prompts.

    Try: expunge train experiment=stories/pretrain data.root=stories/tok8192 data.args.dataset_name=filter-Twist \
        task_name=control
    """
    unused(
        wanted, "stories", "forget_split", "retain_split", "holdout_split", "data_split", "forget", "retain",
        "background",
    )  # fmt: skip
    args = settings(wanted, StoriesArgs)
    if wanted.root is None:
        raise ConfigError("data.root: name the folder of the data sets that `expunge data stories pretokenize` made")
    root = Path(wanted.root).expanduser()
    folder = dataset_folder(root, args.dataset_name, "data.args.dataset_name")
    tokenizer = tokenizer_folder(folder, args.tokenizer)
    places = {"test": folder}
    for i, name in enumerate(args.eval_dataset_names):
        places[name] = dataset_folder(folder.parent, name, f"data.args.eval_dataset_names[{i}]")
        tokenizer_folder(places[name], str(tokenizer))  # another one is refused
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
        rows.documents  # noqa: B018  # a folder that is damaged or has no row of the split is refused now
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
