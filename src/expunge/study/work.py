"""What each kind of job does. Every function fills a folder it is given; none knows of the graph or the store."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from expunge.benchmarks.benchmark import Benchmark
from expunge.core.files import write_text
from expunge.core.records import text_records, texts_table, token_records
from expunge.data.refusals import REFUSALS
from expunge.data.rows import RowSet
from expunge.data.template import Encoded, Encoder, Template
from expunge.methods.edits import Edit
from expunge.methods.objective import Objective
from expunge.metrics.api import Metric, Result
from expunge.metrics.compute import compute, requests
from expunge.metrics.results import write_results
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.config import PRESETS, ModelConfig
from expunge.models.load import load_model, load_tokenizer, pick_device, save_model
from expunge.scoring.config import Generation, check_backend
from expunge.scoring.texts import generate_texts
from expunge.scoring.tokens import TRUNCATED, score_tokens, wanted_variants
from expunge.study.job import Progress
from expunge.training.config import TrainArgs
from expunge.training.loop import train
from expunge.training.lora import merged, save_adapter, with_lora


@dataclass(frozen=True)
class Setting:
    """What the jobs of a study share: the benchmark, the model's settings and the template."""

    benchmark: Benchmark
    model: ModelConfig
    template: Template
    refusals: tuple[str, ...] = REFUSALS

    def encoder(self, source: str) -> Encoder:
        """The template bound to the tokenizer that lies with a model, or the one named in tokenizer_args."""
        named = self.model.tokenizer_args.pretrained_model_name_or_path
        return Encoder(self.template, load_tokenizer(named or source, self.model.tokenizer_args))


def base(folder: Path, setting: Setting, progress: Progress) -> dict[str, Any]:
    """A tokenizer trained on the study's text, and a freshly initialised model."""
    sets = setting.benchmark.sets
    texts = [
        t for name in setting.benchmark.full_sets for r in sets[name].rows for t in (r.question, r.answers["answer"])
    ]
    preset = setting.model.scratch or ""
    shape = PRESETS[preset]
    size = setting.model.vocab_size or shape.vocab_size
    tokenizer = train_tokenizer(texts, size, max_length=shape.max_position_embeddings)
    model = build_llama(preset, tokenizer, vocab_size=size, seed=setting.model.init_seed)
    save_model(model, tokenizer, folder)
    progress(1, 1)
    return {"parameters": int(sum(p.numel() for p in model.parameters())), "vocab_size": len(tokenizer)}


def fit(
    folder: Path,
    source: str,
    setting: Setting,
    objective: Objective,
    sides: Mapping[str, Sequence[str]],
    args: TrainArgs,
    progress: Progress,
    *,
    alternates: Path | None = None,
) -> dict[str, Any]:
    """Train a model on the named sets of each side, and save it with its log.

    alternates: the folder of an `alternates` job; methods that read other answers take refusals without it.
    """
    encoder = setting.encoder(source)
    rows = {side: encode_sets([setting.benchmark.sets[n] for n in names], encoder) for side, names in sides.items()}
    if objective.needs.alternate is not None:
        rows["alternate"] = encode_alternates(
            [setting.benchmark.sets[n] for n in sides["forget"]], setting.refusals, alternates, encoder
        )
    # float32 weights whatever the dtype of scoring: bfloat16 weights round small updates away
    held = dataclasses.replace(setting.model.model_args, dtype="float32")
    model = load_model(source, held, device=pick_device(setting.model.device))
    if args.lora is not None:
        model = with_lora(model, args.lora, args.seed)
    done = train(model, objective, rows, args, pad_id=encoder.tokenizer.pad_token_id, progress=progress)
    if args.lora is not None:
        save_adapter(model, folder / "adapter")
        model = merged(model)
    save_model(model, encoder.tokenizer, folder)
    write_text(folder / "log.jsonl", "".join(json.dumps(line) + "\n" for line in done.history))
    cut = {side: sum(1 for e in encoded if e.truncated) for side, encoded in rows.items()}
    return {"steps": done.n_steps, "truncated_rows": cut}


def apply_edit(
    folder: Path, parents: Mapping[str, Path], setting: Setting, edit: Edit, progress: Progress
) -> dict[str, Any]:
    """Weights from the weights of the parents `base`, `other_0`, `other_1`, ...; saved like any model."""
    held = dataclasses.replace(setting.model.model_args, dtype="float32")
    encoder = setting.encoder(str(parents["base"]))
    base, *others = (
        load_model(str(parents[role]), held, device=pick_device("cpu"))
        for role in ("base", *sorted(r for r in parents if r.startswith("other_")))
    )
    base.load_state_dict(edit(base.state_dict(), [other.state_dict() for other in others]))
    save_model(base, encoder.tokenizer, folder)
    progress(1, 1)
    return {"models": len(others) + 1}


def encode_sets(sets: Sequence[RowSet], encoder: Encoder) -> list[Encoded]:
    """The answers of all rows of some sets, encoded, in order."""
    return [encoder.row(s, r, "answer") for s in sets for r in s.rows]


def encode_alternates(
    forget: Sequence[RowSet], refusals: Sequence[str], folder: Path | None, encoder: Encoder
) -> list[Encoded]:
    """Every forget question with each of its other answers: the refusals, or those an `alternates` job has made."""
    rows = [(s, r) for s in forget for r in s.rows]
    if folder is None:
        texts = [list(refusals) for _ in rows]
    else:
        texts = [json.loads(line) for line in (folder / ALTERNATES).read_text(encoding="utf-8").splitlines()]
    return [
        encoder.row(s, dataclasses.replace(r, answers={ALTERNATE: t}), ALTERNATE)
        for (s, r), ts in zip(rows, texts, strict=True)
        for t in ts
    ]


ALTERNATE, ALTERNATES = "alternate", "alternates.jsonl"
N_ALTERNATES = 5


def alternates(
    folder: Path, source: str, setting: Setting, generation: Generation, progress: Progress
) -> dict[str, Any]:
    """Other answers to the forget questions, sampled from the model itself; a line of texts per row.

    Samples that repeat the true answer are dropped and the rest repeated in turn; a row whose samples all do takes
    refusals.
    """
    encoder = setting.encoder(source)
    model = load_model(source, setting.model.model_args, device=pick_device(setting.model.device))
    rows = setting.benchmark.sets[setting.benchmark.forget_set]
    texts = generate_texts(model, rows, "answer", encoder, generation, progress=lambda n: progress(n, len(rows.rows)))
    lines, bare = [], 0
    for row in rows.rows:
        truth = row.answers["answer"].strip().casefold()
        made = [t.generation for t in texts if t.row_id == row.row_id]
        made = [t for t in made if t and t.casefold() != truth]
        bare += not made
        made = made or list(setting.refusals)
        lines.append(json.dumps([made[k % len(made)] for k in range(generation.samples)], ensure_ascii=False))
    write_text(folder / ALTERNATES, "\n".join(lines) + "\n")
    return {"rows_without_alternates": bare}


def score(
    folder: Path, source: str, setting: Setting, panel: Sequence[Metric], generation: Generation, progress: Progress
) -> dict[str, Any]:
    """Records of everything the panel reads: each answer teacher-forced once, each question answered once."""
    check_backend(generation)
    encoder = setting.encoder(source)
    model = load_model(source, setting.model.model_args, device=pick_device(setting.model.device))
    wanted = requests(panel)
    total = scoring_units(setting.benchmark, panel)
    done = 0
    cut: dict[str, int] = {}

    def step(n: int) -> None:
        nonlocal done
        done += n
        progress(done, total)

    for name, variants in wanted.tokens.items():
        table = score_tokens(model, setting.benchmark.sets[name], variants, encoder, progress=step)
        cut[name] = int(table.schema.metadata[TRUNCATED.encode()])
        pq.write_table(table, folder / f"{name}.tokens.parquet")
    for name in wanted.texts:
        rows = setting.benchmark.sets[name]
        made = generate_texts(model, rows, "answer", encoder, generation, progress=lambda n: step(n * GENERATION_UNITS))
        pq.write_table(texts_table(made), folder / f"{name}.texts.parquet")
    return {"units": total, "truncated_answers": cut}


GENERATION_UNITS = 10  # a generated answer counts as this many scored ones in the progress


def scoring_units(benchmark: Benchmark, panel: Sequence[Metric]) -> int:
    """How many sequences scoring reads; a generation counts as `GENERATION_UNITS`."""
    wanted = requests(panel)
    scored = sum(len(wanted_variants(r, v)) for n, v in wanted.tokens.items() for r in benchmark.sets[n].rows)
    return scored + GENERATION_UNITS * sum(len(benchmark.sets[n].rows) for n in wanted.texts)


def measure(
    folder: Path,
    records: Path,
    setting: Setting,
    panel: Sequence[Metric],
    retain: Mapping[str, Result] | None,
    meta: Mapping[str, Any],
) -> dict[str, Any]:
    """The panel over stored records, as EVAL and SUMMARY files. No model is read."""
    wanted = requests(panel)
    tokens = {n: token_records(pq.read_table(records / f"{n}.tokens.parquet")) for n in wanted.tokens}
    texts = {}
    for name, references in wanted.texts.items():
        made = text_records(pq.read_table(records / f"{name}.texts.parquet"))
        rows = {r.row_id: r for r in setting.benchmark.sets[name].rows}
        for variant in references:
            texts[name, variant] = [dataclasses.replace(t, reference=rows[t.row_id].answers[variant]) for t in made]
    results = compute(panel, tokens, texts, retain)
    write_results(folder, results, meta, prefix=f"{setting.benchmark.eval_name}_")
    return {name: None if math.isnan(r.value) else r.value for name, r in results.items()}
