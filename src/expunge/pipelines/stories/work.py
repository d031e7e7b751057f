"""The functions that the jobs of a stories study run. Each fills one folder and returns the facts of the job."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from expunge.core.decode import decode
from expunge.core.files import link, write_json, write_text
from expunge.core.fingerprints import fingerprint, folder_sha256, is_comparing, note
from expunge.core.numbers import finite
from expunge.data.encoder import Encoded, Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.stories.cache import cached
from expunge.data.stories.documents import TokenDocuments
from expunge.data.stories.gather import gather
from expunge.data.stories.generate import generate
from expunge.data.stories.pretokenize import pretokenize, read_dataset
from expunge.data.stories.records import INDEX, Split, Story, load_records, open_stories, split_numbers
from expunge.data.stories.text import StoryVariant, prompt, render, transform
from expunge.data.stories.tokens import load_tokenizer as story_tokenizer
from expunge.data.template import Template
from expunge.data.transforms.draws import Draws
from expunge.engine.job import Progress
from expunge.engine.store import store_around
from expunge.evaluation.config import Generation
from expunge.evaluation.generation import generate_texts
from expunge.evaluation.passport import load_checked
from expunge.interpretability.hidden import hidden_states
from expunge.interpretability.inputs import AnalysisInputs, answer_logps
from expunge.interpretability.probe import probe
from expunge.interpretability.result import plain, write
from expunge.judges.api import Judge, JudgementTable, judge_texts
from expunge.judges.api import score as judge_scores
from expunge.judges.calibration import calibrate
from expunge.judges.classifier import ClassifierConfig, load_classifier, train_classifier
from expunge.methods.objective import objective
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.capabilities import kept_modes
from expunge.models.config import ModelConfig
from expunge.models.identity import tokenisation_identity
from expunge.models.load import load_model, load_tokenizer, pick_device, save_model
from expunge.pipelines.stories.config import StoriesStudy
from expunge.pipelines.study.task_context import job_encoder
from expunge.pipelines.study_jobs import TRAJECTORY
from expunge.training.checkpoint import kept_random
from expunge.training.config import TrainArgs
from expunge.training.evaluate_args import EvaluateArgs
from expunge.training.in_memory.evaluation_callback import EvalCallback
from expunge.training.saved_run import train_and_save

STORIES, DATASET, TOKENIZER, JUDGE = "stories", "dataset", "tokenizer", "judge"
GENERATIONS, CALIBRATION = "generations.jsonl", "calibration.json"
SCORE = "feature_score"
CALIBRATION_FACTS = ("n", "accuracy", "false_positive_rate", "false_negative_rate")
MOST_LABELLED = 6000  # training stories of a classifier; more hardly change it
STOPS = ("Words:", "Features:", "Summary:", "Sentence:", "Story:")  # where the next document would begin


def corpus(folder: Path, settings: StoriesStudy, progress: Progress) -> dict[str, Any]:
    """Write the stories: generated from a seed, or imported."""
    out = folder / STORIES
    if settings.source is None:
        generate(settings.generate, out)
    else:
        gather(settings.source, out, shards=settings.shards, compat=settings.compat)
    written = open_stories(out)
    split_numbers(len(written.shards), "finetune")  # reject too few shards here, before a run reads them
    progress(1, 1)
    return {"stories": written.records, "shards": len(written.shards)}


def vocabulary(folder: Path, source: Path, settings: StoriesStudy, size: int, progress: Progress) -> dict[str, Any]:
    """Train a tokenizer on the training stories, and tokenise all lines once for all data sets."""
    stories = folder / STORIES
    (stories / "shards").mkdir(parents=True)
    link(source / STORIES / INDEX, stories / INDEX)
    shards = open_stories(source / STORIES).shards
    for shard in shards:
        link(shard.path, stories / "shards" / shard.path.name)
    subset = StoryVariant(instruction_subset=settings.instruction_subset).subset()
    texts = (render(s, subset, Draws(settings.seed, s.record_id)) for s in load_records(stories, "train"))
    tokenizer = train_tokenizer(texts, size, max_length=settings.max_seq_len, by_line=True)
    tokenizer.save_pretrained(folder / TOKENIZER)
    token = story_tokenizer(folder / TOKENIZER)
    n_tokens = 0
    for number, shard in enumerate(open_stories(stories).shards):
        n_tokens += int(cached(stories, shard, token, settings.seed).offsets[-1])
        progress(number + 1, len(shards))
    for lock in (stories / "tokens").glob(".*.lock"):
        lock.unlink()
    return {"vocab_size": len(tokenizer), "tokens": n_tokens}


def dataset(folder: Path, source: Path, variant: StoryVariant, seed: int, progress: Progress) -> dict[str, Any]:
    """Assemble one data set of tokens from the tokenised lines."""
    tokens = pretokenize(source / STORIES, source / TOKENIZER, variant, folder / DATASET, seed=seed)
    (folder / f".{DATASET}.lock").unlink(missing_ok=True)
    _note_tokens(folder / DATASET)
    progress(1, 1)
    return {k: v for k, v in dataclasses.asdict(tokens).items() if k not in ("folder", "made")}


def _note_tokens(folder: Path) -> None:
    """Note the token ids of a data set if a job runs: its fingerprint covers the stories, tokenizer and variant."""
    if is_comparing():
        files = [file.name for suffix in ("bin", "npy") for file in sorted(folder.glob(f"*.{suffix}"))]
        inputs = fingerprint([tokenisation_identity(), read_dataset(folder)["fingerprint"]])
        note("token ids of the stories", inputs, folder_sha256(folder, files))


def base(folder: Path, source: Path, model: ModelConfig, size: int, progress: Progress) -> dict[str, Any]:
    """Save a freshly initialised model for the vocabulary."""
    tokenizer = load_tokenizer(str(source / TOKENIZER), model.tokenizer_args)
    network = build_llama(str(model.scratch), tokenizer, vocab_size=size, seed=model.init_seed)
    save_model(network, tokenizer, folder)
    progress(1, 1)
    return {"parameters": int(sum(p.numel() for p in network.parameters()))}


def make_judge(folder: Path, source: Path, settings: StoriesStudy, progress: Progress) -> dict[str, Any]:
    """Save the judge of generations, and measure its error rates on stories with known features."""
    rules = settings.judge.rules
    if rules is not None:
        stories = list(load_records(source / STORIES, "test"))
        scores = judge_scores(rules, [s.story for s in stories])
        calibration = calibrate(scores, [settings.delete in s.features for s in stories])
    else:
        stories = list(islice(load_records(source / STORIES, "train"), MOST_LABELLED))
        labels = [settings.delete in s.features for s in stories]
        classifier = train_classifier(settings.delete, [s.story for s in stories], labels, classifier_config(settings))
        classifier.save(folder / JUDGE)
        calibration = classifier.calibration
    write_json(folder / CALIBRATION, plain(calibration))
    progress(1, 1)
    return {key: plain(calibration)[key] for key in CALIBRATION_FACTS}


def classifier_config(settings: StoriesStudy) -> ClassifierConfig:
    """Return the classifier's settings. Raises ConfigError at the key."""
    return decode(ClassifierConfig, settings.judge.classifier, where="stories.judge.classifier")


@dataclass
class StoryCheck:
    """Measures a model: the loss on each set, and the feature score of generations whose prompts request the feature.

    Attributes:
        sets: Documents of the test split, by name.
        generations: Every generation so far, with its step.
    """

    sets: Mapping[str, AnalysisInputs]
    prompts: ExampleSet
    encoder: Encoder
    generation: Generation
    judge: Judge
    generations: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, model: Any) -> dict[str, float]:
        """Return the loss of each set in nats per story token, and the score with its 95 % interval and n."""
        with kept_random(), kept_modes(model):
            values = {f"loss_{name}": -float(answer_logps(model, rows).mean()) for name, rows in self.sets.items()}
            texts = generate_texts(model, self.prompts, "answer", self.encoder, self.generation)
        table = judge_texts(self.judge, texts)
        score = {line.row_id: line.score for line in table.lines}
        self.generations += [
            {"row_id": t.row_id, "prompt": t.prompt, "generation": t.generation, "score": finite(score[t.row_id])}
            for t in texts
        ]
        return {**values, **score_values(table)}


def score_values(table: JudgementTable) -> dict[str, float]:
    """Return the score, its interval and n as values of a trajectory point."""
    return {
        SCORE: table.mean, f"{SCORE}_low": table.ci_low, f"{SCORE}_high": table.ci_high, f"{SCORE}_n": float(table.n),
    }  # fmt: skip


class StepsCallback(EvalCallback):
    """Measures the model after the listed steps, and writes the generations next to the numbers."""

    def __init__(self, at: Sequence[int], check: StoryCheck, folder: Path) -> None:
        super().__init__(EvaluateArgs(steps=1, at_start=False), check)
        self.at, self.check, self._folder = frozenset(at), check, folder

    def evaluate(self, model: Any, *, step: int, epoch: float, phase: int) -> bool:
        """Measure the model if the step is listed."""
        if step not in self.at:
            return False
        before = len(self.check.generations)
        stop = super().evaluate(model, step=step, epoch=epoch, phase=phase)
        for line in self.check.generations[before:]:
            line["step"] = step
        self._write()
        return stop

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {**super().state(), "generations": list(self.check.generations)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the state of a checkpoint."""
        self.check.generations[:] = state["generations"]
        super().restore(state)
        self._write()

    def _write(self) -> None:
        for name, lines in ((TRAJECTORY, [p.line for p in self.points]), (GENERATIONS, self.check.generations)):
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
    """Train the parent `model` on the parent `data`, and measure it after each step of `at`."""
    rows = TokenDocuments(
        parents["data"] / DATASET, split, max_seq_len=settings.max_seq_len, rows=settings.rows, scored="all"
    )
    encoder = _encoder(parents["model"], model_config, settings)
    callback = StepsCallback(at, _check(parents, settings, encoder), folder) if at else None
    model = _model(folder, parents["model"], model_config, encoder.tokenizer)
    run = train_and_save(
        folder, model, encoder, objective("finetune"), {"retain": rows}, args, watch=callback, progress=progress,
        checkpoints=checkpoints, reload=lambda: _weights(parents["model"], model_config),
    )  # fmt: skip
    epochs = run.n_steps * args.rows_per_step / len(rows)
    facts: dict[str, Any] = {"steps": run.n_steps, "rows": len(rows), "epochs": epochs}
    return facts if run.resumed_at is None else {**facts, "resumed_at": run.resumed_at}


def measure(
    folder: Path, parents: Mapping[str, Path], settings: StoriesStudy, config: ModelConfig, progress: Progress
) -> dict[str, Any]:
    """Measure the unchanged parent `model`: a trajectory of one point."""
    encoder = _encoder(parents["model"], config, settings)
    callback = StepsCallback([0], _check(parents, settings, encoder), folder)
    callback.evaluate(_model(folder, parents["model"], config, encoder.tokenizer), step=0, epoch=0.0, phase=0)
    progress(1, 1)
    return {}


def _encoder(source: Path, model: ModelConfig, settings: StoriesStudy) -> Encoder:
    template = Template(apply_chat_template=False, max_length=settings.max_seq_len)
    return job_encoder(template, str(source), model.tokenizer_args)


def _model(folder: Path, source: Path, config: ModelConfig, tokenizer: Any) -> Any:
    """Return a model by the passport in the store of a job's folder."""
    args = dataclasses.replace(config.model_args, dtype="float32")
    device = pick_device(config.device)
    return load_checked(str(source), args, tokenizer, device=device, store=store_around(folder))[0]


def _weights(source: Path, config: ModelConfig) -> Any:
    """Return the weights of a model on the CPU, without the checks of its passport."""
    return load_model(str(source), dataclasses.replace(config.model_args, dtype="float32"), device=pick_device("cpu"))


def _check(parents: Mapping[str, Path], settings: StoriesStudy, encoder: Encoder) -> StoryCheck:
    """Return the measurement of a study's models: the first test stories of each set, and prompts of test stories."""
    pad_id = int(encoder.tokenizer.pad_token_id)
    sets = {}
    for name in settings.evaluated:
        documents = TokenDocuments(
            parents[f"eval {name}"] / DATASET, "test", max_seq_len=settings.max_seq_len, scored="story"
        )
        sets[name] = AnalysisInputs(tuple(documents[: settings.eval_rows]), pad_id)
    config = settings.judge
    generation = Generation(
        max_new_tokens=config.max_new_tokens, temperature=config.temperature, seed=config.seed, stop=STOPS
    )
    judge: Judge = config.rules or load_classifier(parents["judge"] / JUDGE)
    stories = load_records(parents["vocabulary"] / STORIES, "test")
    return StoryCheck(sets, prompts(stories, settings), encoder, generation, judge)


def prompts(stories: Iterable[Story], settings: StoriesStudy) -> ExampleSet:
    """Return prompts of stories without the feature. Only the request in the prompt can produce the feature."""
    variant = settings.variants[f"filter-adv-{settings.delete}"]
    rows: list[Example] = []
    for story in islice(transform(stories, variant, seed=settings.seed), settings.judge.prompts):
        question = prompt(story, variant.subset(), Draws(settings.seed, story.record_id))
        rows.append(Example(len(rows), question, {"answer": story.story}))
    return ExampleSet("asked", tuple(rows), form="text", max_length=settings.max_seq_len)


def probe_layers(
    folder: Path, parents: Mapping[str, Path], settings: StoriesStudy, config: ModelConfig, progress: Progress
) -> dict[str, Any]:
    """Fit probes of each layer for each feature, on test stories without their instructions."""
    probes = settings.probe
    if probes is None:
        raise ValueError("this study has no probes")
    documents = TokenDocuments(parents["data"] / DATASET, "test", max_seq_len=settings.max_seq_len, scored="story")
    stories = list(load_records(parents["vocabulary"] / STORIES, "test"))
    rows: list[Encoded] = []
    numbers: list[int] = []
    for i in range(min(probes.rows, len(documents))):
        document = documents[i]
        # the start id, then "Story: ...": the instructions would name the feature
        rows.append(Encoded((document.ids[0], *document.ids[document.n_prompt :]), 1))
        numbers.append(int(documents.records[i][1]) if documents.records is not None else i)
    tokenizer = load_tokenizer(str(parents["model"]), config.tokenizer_args)
    inputs = AnalysisInputs(tuple(rows), int(tokenizer.pad_token_id))
    states = hidden_states(_model(folder, parents["model"], config, tokenizer), inputs, at="last", last=probes.last)
    names = probes.features or (settings.delete,)
    labels = {name: [name in stories[n].features for n in numbers] for name in names}
    result = probe(states, labels, strength=probes.strength, seed=probes.seed)
    write(folder, "probe", result)
    progress(1, 1)
    aucs = [line.auc for line in result.lines if line.attribute == settings.delete and not math.isnan(line.auc)]
    return {"rows": len(rows), "best_auc": max(aucs) if aucs else None}
