"""What the jobs of a study of stories do. Every function fills a folder it is given; none knows of the graph."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from expunge.core.files import link, write_json, write_text
from expunge.core.numbers import finite
from expunge.data.examples import Example, ExampleSet
from expunge.data.stories import (
    Draws,
    Story,
    StoryVariant,
    TokenDocuments,
    gather,
    generate,
    load_records,
    open_stories,
    pretokenize,
    prompt,
    render,
    split_numbers,
    transform,
)
from expunge.data.stories.cache import cached
from expunge.data.stories.records import INDEX, Split
from expunge.data.stories.tokens import load_tokenizer as story_tokenizer
from expunge.data.template import Encoded, Encoder, Template
from expunge.engine.job import Progress
from expunge.evaluation.config import Generation
from expunge.evaluation.generation import generate_texts
from expunge.interpretability.hidden import hidden_states
from expunge.interpretability.inputs import AnalysisInputs, answer_logps
from expunge.interpretability.probe import probe
from expunge.interpretability.result import plain, write
from expunge.judges.api import Judge, JudgementTable, judge_texts
from expunge.judges.api import score as judge_scores
from expunge.judges.calibration import Calibration, calibrate
from expunge.judges.classifier import ClassifierConfig, load_classifier, train_classifier
from expunge.methods.objective import objective
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.config import ModelConfig
from expunge.models.load import load_model, load_tokenizer, pick_device, save_model
from expunge.pipelines.stories.config import StoriesStudy
from expunge.pipelines.study.work import TRAJECTORY
from expunge.training.config import EvaluateArgs, TrainArgs
from expunge.training.evaluation_callback import EvalCallback
from expunge.training.loop import train
from expunge.training.randomness import kept_random

STORIES, DATASET, TOKENIZER, JUDGE = "stories", "dataset", "tokenizer", "judge"
GENERATIONS, CALIBRATION = "generations.jsonl", "calibration.json"
SCORE = "feature_score"
MOST_LABELLED = 6000  # stories a classifier is trained on; more hardly change it
STOPS = ("Words:", "Features:", "Summary:", "Sentence:", "Story:")  # where the next document would begin


def corpus(folder: Path, settings: StoriesStudy, progress: Progress) -> dict[str, Any]:
    """Return the stories: made from a seed, or imported."""
    out = folder / STORIES
    if settings.source is None:
        generate(settings.generate, out)
    else:
        gather(settings.source, out, shards=settings.shards)
    found = open_stories(out)
    split_numbers(len(found.shards), "finetune")  # too few shards are refused here, not when a run reads them
    progress(1, 1)
    return {"stories": found.records, "shards": len(found.shards)}


def vocabulary(folder: Path, source: Path, settings: StoriesStudy, size: int, progress: Progress) -> dict[str, Any]:
    """Train a tokenizer on the training stories, and tokenise all lines with it, once for every data set."""
    stories = folder / STORIES
    (stories / "shards").mkdir(parents=True)
    link(source / STORIES / INDEX, stories / INDEX)
    found = open_stories(source / STORIES)
    for shard in found.shards:
        link(shard.path, stories / "shards" / shard.path.name)
    subset = StoryVariant(instruction_subset=settings.instruction_subset).subset()
    texts = (render(s, subset, Draws(settings.seed, s.record_id)) for s in load_records(stories, "train"))
    tokenizer = train_tokenizer(texts, size, max_length=settings.max_seq_len, by_line=True)
    tokenizer.save_pretrained(folder / TOKENIZER)
    token = story_tokenizer(folder / TOKENIZER)
    n_tokens = 0
    for number, shard in enumerate(open_stories(stories).shards):
        n_tokens += int(cached(stories, shard, token, settings.seed).offsets[-1])
        progress(number + 1, len(found.shards))
    for lock in (stories / "tokens").glob(".*.lock"):
        lock.unlink()
    return {"vocab_size": len(tokenizer), "tokens": n_tokens}


def dataset(folder: Path, source: Path, variant: StoryVariant, seed: int, progress: Progress) -> dict[str, Any]:
    """Return one data set of tokens, put together from lines that are tokenised already."""
    made = pretokenize(source / STORIES, source / TOKENIZER, variant, folder / DATASET, seed=seed)
    (folder / f".{DATASET}.lock").unlink(missing_ok=True)
    progress(1, 1)
    return {k: v for k, v in dataclasses.asdict(made).items() if k not in ("folder", "made")}


def base(folder: Path, source: Path, model: ModelConfig, size: int, progress: Progress) -> dict[str, Any]:
    """Return a freshly initialised model for the vocabulary."""
    tokenizer = load_tokenizer(str(source / TOKENIZER), model.tokenizer_args)
    made = build_llama(str(model.scratch), tokenizer, vocab_size=size, seed=model.init_seed)
    save_model(made, tokenizer, folder)
    progress(1, 1)
    return {"parameters": int(sum(p.numel() for p in made.parameters()))}


def make_judge(folder: Path, source: Path, settings: StoriesStudy, progress: Progress) -> dict[str, Any]:
    """Return the judge of generations, and what it is worth on stories whose features are known."""
    asked = settings.judge
    if asked.rules is not None:
        stories = list(load_records(source / STORIES, "test"))
        told = judge_scores(asked.rules, [s.story for s in stories])
        found = calibrate(told, [settings.delete in s.features for s in stories])
    else:
        stories = list(islice(load_records(source / STORIES, "train"), MOST_LABELLED))
        labels = [settings.delete in s.features for s in stories]
        classifier = train_classifier(settings.delete, [s.story for s in stories], labels, classifier_config(settings))
        classifier.save(folder / JUDGE)
        found = classifier.calibration
    write_json(folder / CALIBRATION, plain(found))
    progress(1, 1)
    return dict(plain(_worth(found)))


def _worth(found: Calibration) -> dict[str, float]:
    return {
        "n": found.n,
        "accuracy": found.accuracy,
        "false_positive_rate": found.false_positive_rate,
        "false_negative_rate": found.false_negative_rate,
    }


def classifier_config(settings: StoriesStudy) -> ClassifierConfig:
    """Return the classifier's settings. Raises ConfigError at the key."""
    from expunge.core.decode import decode

    return decode(ClassifierConfig, settings.judge.classifier, where="stories.judge.classifier")


@dataclass
class StoryCheck:
    """Measures a model: the loss on each named set, and the feature score of generations that were asked for it.

    sets: name -> documents of the test. said: every generation so far, with the step it was made after.
    """

    sets: Mapping[str, AnalysisInputs]
    prompts: ExampleSet
    encoder: Encoder
    generation: Generation
    judge: Judge
    said: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, model: Any) -> dict[str, float]:
        """Nats per token of a story given its instructions, by set; the score with its 95 % interval and n."""
        was_training = model.training
        with kept_random():
            values = {f"loss_{name}": -float(answer_logps(model, read).mean()) for name, read in self.sets.items()}
            texts = generate_texts(model, self.prompts, "answer", self.encoder, self.generation)
        model.train(was_training)
        found = judge_texts(self.judge, texts)
        score = {line.row_id: line.score for line in found.lines}
        self.said += [
            {"row_id": t.row_id, "prompt": t.prompt, "generation": t.generation, "score": finite(score[t.row_id])}
            for t in texts
        ]
        return {**values, **score_values(found)}


def score_values(found: JudgementTable) -> dict[str, float]:
    """Return a judged set of generations as numbers of a point."""
    return {
        SCORE: found.mean, f"{SCORE}_low": found.ci_low, f"{SCORE}_high": found.ci_high, f"{SCORE}_n": float(found.n),
    }  # fmt: skip


class StepsCallback(EvalCallback):
    """A watch that looks after the listed steps alone, and keeps what was generated beside the numbers."""

    def __init__(self, at: Sequence[int], check: StoryCheck, folder: Path) -> None:
        super().__init__(EvaluateArgs(steps=1, at_start=False), check)
        self.at, self.check, self._folder = frozenset(at), check, folder

    def evaluate(self, model: Any, *, step: int, epoch: float, phase: int) -> bool:
        """Measure the model if the step is one of those."""
        if step not in self.at:
            return False
        before = len(self.check.said)
        stop = super().evaluate(model, step=step, epoch=epoch, phase=phase)
        for line in self.check.said[before:]:
            line["step"] = step
        self._write()
        return stop

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold of it."""
        return {**super().state(), "said": list(self.check.said)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state."""
        self.check.said[:] = state["said"]
        super().restore(state)
        self._write()

    def _write(self) -> None:
        for name, lines in ((TRAJECTORY, [p.line for p in self.points]), (GENERATIONS, self.check.said)):
            write_text(self._folder / name, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def fit(
    folder: Path,
    parents: Mapping[str, Path],
    settings: StoriesStudy,
    model_config: ModelConfig,
    args: TrainArgs,
    split: Split,
    at: Sequence[int],
    progress: Progress,
    checkpoints: Path | None,
) -> dict[str, Any]:
    """Train the parent `model` on the parent `data`, and measure it after the steps of `at` (none: never)."""
    rows = TokenDocuments(
        parents["data"] / DATASET, split, max_seq_len=settings.max_seq_len, rows=settings.rows, scored="all"
    )
    encoder = _encoder(parents["model"], model_config, settings)
    watch = StepsCallback(at, _check(parents, settings, encoder), folder) if at else None
    model = _model(parents["model"], model_config)
    done = train(
        model, objective("finetune"), {"retain": rows}, args, pad_id=encoder.tokenizer.pad_token_id, watch=watch,
        progress=progress, checkpoints=checkpoints,
    )  # fmt: skip
    save_model(model, encoder.tokenizer, folder)
    write_text(folder / "log.jsonl", "".join(json.dumps(line) + "\n" for line in done.history))
    epochs = done.n_steps * args.rows_per_step / len(rows)
    facts: dict[str, Any] = {"steps": done.n_steps, "rows": len(rows), "epochs": epochs}
    return facts if done.resumed_at is None else {**facts, "resumed_at": done.resumed_at}


def measure(
    folder: Path, parents: Mapping[str, Path], settings: StoriesStudy, config: ModelConfig, progress: Progress
) -> dict[str, Any]:
    """Measure the parent `model` as it is: a trajectory of one point."""
    watch = StepsCallback([0], _check(parents, settings, _encoder(parents["model"], config, settings)), folder)
    watch.evaluate(_model(parents["model"], config), step=0, epoch=0.0, phase=0)
    progress(1, 1)
    return {}


def _encoder(source: Path, model: ModelConfig, settings: StoriesStudy) -> Encoder:
    return Encoder(
        Template(apply_chat_template=False, max_length=settings.max_seq_len),
        load_tokenizer(str(source), model.tokenizer_args),
    )


def _model(source: Path, config: ModelConfig) -> Any:
    held = dataclasses.replace(config.model_args, dtype="float32")
    return load_model(str(source), held, device=pick_device(config.device))


def _check(parents: Mapping[str, Path], settings: StoriesStudy, encoder: Encoder) -> StoryCheck:
    """What measures the models of one study: the first stories of each named set, and prompts, all of the test."""
    pad_id = int(encoder.tokenizer.pad_token_id)
    sets = {}
    for name in settings.evaluated:
        documents = TokenDocuments(
            parents[f"eval {name}"] / DATASET, "test", max_seq_len=settings.max_seq_len, scored="story"
        )
        sets[name] = AnalysisInputs(tuple(documents[: settings.eval_rows]), pad_id)
    asked = settings.judge
    generation = Generation(
        max_new_tokens=asked.max_new_tokens, temperature=asked.temperature, seed=asked.seed, stop=STOPS
    )
    judge: Judge = asked.rules or load_classifier(parents["judge"] / JUDGE)
    stories = load_records(parents["vocabulary"] / STORIES, "test")
    return StoryCheck(sets, prompts(stories, settings), encoder, generation, judge)


def prompts(stories: Iterable[Story], settings: StoriesStudy) -> ExampleSet:
    """Stories without the feature, asked for it: nothing in the prompt but the request can bring it forth."""
    variant = settings.variants[f"filter-adv-{settings.delete}"]
    rows: list[Example] = []
    for made in islice(transform(stories, variant, seed=settings.seed), settings.judge.prompts):
        question = prompt(made, variant.subset(), Draws(settings.seed, made.record_id))
        rows.append(Example(len(rows), question, {"answer": made.story}))
    return ExampleSet("asked", tuple(rows), form="text", max_length=settings.max_seq_len)


def probe_layers(
    folder: Path, parents: Mapping[str, Path], settings: StoriesStudy, config: ModelConfig, progress: Progress
) -> dict[str, Any]:
    """Probes of each layer for each feature, on stories of the test without their instructions."""
    asked = settings.probe
    if asked is None:
        raise ValueError("this study asks for no probes")
    documents = TokenDocuments(parents["data"] / DATASET, "test", max_seq_len=settings.max_seq_len, scored="story")
    stories = list(load_records(parents["vocabulary"] / STORIES, "test"))
    rows: list[Encoded] = []
    numbers: list[int] = []
    for i in range(min(asked.rows, len(documents))):
        document = documents[i]
        # the beginning-of-sequence id, then "Story: ...": no instruction that would name the feature
        rows.append(Encoded((document.ids[0], *document.ids[document.n_prompt :]), 1))
        numbers.append(int(documents.records[i][1]) if documents.records is not None else i)
    tokenizer = load_tokenizer(str(parents["model"]), config.tokenizer_args)
    read = AnalysisInputs(tuple(rows), int(tokenizer.pad_token_id))
    states = hidden_states(_model(parents["model"], config), read, at="last", last=asked.last)
    names = asked.features or (settings.delete,)
    labels = {name: [name in stories[n].features for n in numbers] for name in names}
    found = probe(states, labels, strength=asked.strength, seed=asked.seed)
    write(folder, "probe", found)
    progress(1, 1)
    mine = [line.auc for line in found.lines if line.attribute == settings.delete and not math.isnan(line.auc)]
    return {"rows": len(rows), "best_auc": max(mine) if mine else None}
