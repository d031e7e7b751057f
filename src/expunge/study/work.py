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

from expunge.benchmarks import Benchmark, Limits
from expunge.core.errors import ConfigError, nearest
from expunge.core.files import link, write_text
from expunge.core.identity import fingerprint
from expunge.core.records import (
    AGREEMENT,
    GRADS,
    TEXTS,
    TOKENS,
    Text,
    agreement_records,
    grad_records,
    similarity_records,
    text_records,
    texts_table,
    token_records,
)
from expunge.data.refusals import REFUSALS
from expunge.data.rows import RowSet
from expunge.data.template import Encoded, Encoder, Template
from expunge.methods.edits import Edit
from expunge.methods.objective import Objective
from expunge.metrics.api import Metric, Result
from expunge.metrics.compute import Extra, Texts, compute, requests, with_parents
from expunge.metrics.results import write_results
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.config import PRESETS, ModelConfig
from expunge.models.load import Bits, load_model, load_tokenizer, pick_device, save_model
from expunge.scoring.agreement import score_agreement
from expunge.scoring.config import Generation
from expunge.scoring.grads import score_grads
from expunge.scoring.similarity import Embedder, score_similarity
from expunge.scoring.texts import generate_texts
from expunge.scoring.tokens import TRUNCATED, score_tokens, wanted_variants
from expunge.study.job import Progress
from expunge.training.ask import Ask
from expunge.training.config import EvaluateArgs, TrainArgs
from expunge.training.evaluate import Panel, Point, Watch, panel_metrics, selection
from expunge.training.loop import train
from expunge.training.lora import save_adapter, saved_form, with_lora
from expunge.training.reference import load_reference


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
    references: Mapping[str, tuple[Path, Ask]] | None = None,
    retain: Path | None = None,
    generation: Generation | None = None,
    checkpoints: Path | None = None,
) -> dict[str, Any]:
    """Train a model on the named sets of each side, and save it with its log, and its trajectory if it was evaluated.

    alternates: the folder of an `alternates` job; methods that read other answers take refusals without it.
    references: the folders of `reference` jobs and what each was asked, by side (a teacher's by `<side>_teacher`).
    retain: the retain model's records, generation: how texts are made, for evaluations. checkpoints: where an
    unfinished attempt is kept.
    """
    encoder = setting.encoder(source)
    watch = None
    if args.evaluate.on:
        panel = evaluated(setting, args.evaluate, encoder, generation or Generation(), retain)
        watch = watching(folder, args.evaluate, panel)
    rows = {side: encode_sets([setting.benchmark.sets[n] for n in names], encoder) for side, names in sides.items()}
    if objective.needs.alternate is not None:
        rows["alternate"] = encode_alternates(
            [setting.benchmark.sets[n] for n in sides["forget"]], setting.refusals, alternates, encoder
        )
    model = load_trained(source, setting, quantize=args.lora.quantize if args.lora else None)
    stored = {key: load_reference(path, what, model) for key, (path, what) in (references or {}).items()}
    if args.lora is not None:
        model = with_lora(model, args.lora, args.seed)
    pad_id = encoder.tokenizer.pad_token_id
    done = train(
        model, objective, rows, args, pad_id=pad_id, references=stored, progress=progress, watch=watch,
        checkpoints=checkpoints,
    )  # fmt: skip
    if args.lora is not None:
        save_adapter(model, folder / "adapter")
        model = saved_form(model, args.lora, lambda: load_trained(source, setting, device="cpu"))
    save_model(model, encoder.tokenizer, folder)
    write_text(folder / "log.jsonl", "".join(json.dumps(line) + "\n" for line in done.history))
    cut = {side: sum(1 for e in encoded if e.truncated) for side, encoded in rows.items()}
    facts: dict[str, Any] = {"steps": done.n_steps, "truncated_rows": cut}
    if done.resumed_at is not None:
        facts["resumed_at"] = done.resumed_at
    if args.evaluate.on:
        facts["evaluation"] = {**done.selected, "rows": panel.read}
    return facts


TRAJECTORY = "trajectory.jsonl"


def watching(folder: Path, args: EvaluateArgs, panel: Panel) -> Watch:
    """What evaluates a run and writes its trajectory, whole each time, into a folder."""

    def tell(points: Sequence[Point]) -> None:
        write_text(folder / TRAJECTORY, "".join(json.dumps(p.line) + "\n" for p in points))

    choice = selection(args, panel.retain) if args.chooses else None
    return Watch(args, panel, choice, tell)


def evaluated(
    setting: Setting, args: EvaluateArgs, encoder: Encoder, generation: Generation, retain: Path | None
) -> Panel:
    """The panel of a run's evaluations; retain: the folder of the retain model's records, cut to the same rows."""
    sets = setting.benchmark.sets
    metrics = panel_metrics(setting.benchmark.panel, args)
    kept = {m.name: rows_where(sets[m.rows], m) for m in metrics if m.rows and m.where}
    panel = Panel(metrics, sets, encoder, generation, args.n_rows, kept)
    if retain is None:
        return panel
    read = {(p.rows, p.kind): pq.read_table(retain / p.file) for p in parts(metrics)}
    tokens = {rows: token_records(table) for (rows, kind), table in read.items() if kind == "tokens"}
    texts = {rows: text_records(table) for (rows, kind), table in read.items() if kind == "texts"}
    return dataclasses.replace(panel, retain=panel.results(tokens, texts))


def load_trained(source: str, setting: Setting, *, quantize: Bits | None = None, device: str | None = None) -> Any:
    """The model of a training run: float32 weights whatever the dtype of scoring, for bfloat16 weights round small
    updates away."""
    held = dataclasses.replace(setting.model.model_args, dtype="float32")
    return load_model(source, held, device=pick_device(device or setting.model.device), quantize=quantize)


def apply_edit(
    folder: Path, parents: Mapping[str, Path | str], setting: Setting, edit: Edit, progress: Progress
) -> dict[str, Any]:
    """Weights from the weights of the parents `base`, `other_0`, `other_1`, ...; saved like any model."""
    encoder = setting.encoder(str(parents["base"]))
    base, *others = (
        load_trained(str(parents[role]), setting, device="cpu")
        for role in ("base", *sorted(r for r in parents if r.startswith("other_")))
    )
    base.load_state_dict(edit(base.state_dict(), [other.state_dict() for other in others]))
    save_model(base, encoder.tokenizer, folder)
    progress(1, 1)
    return {"models": len(others) + 1}


def encode_sets(sets: Sequence[RowSet], encoder: Encoder) -> list[Encoded]:
    """The answers of all rows of some sets, encoded, in order; texts to be cut in pieces as their pieces."""
    out: list[Encoded] = []
    for rows in sets:
        out += encoder.pieces(rows) if rows.long == "pieces" else [encoder.row(rows, r, "answer") for r in rows]
    return out


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


COLUMNS: Mapping[str, Sequence[str]] = {
    "tokens": TOKENS.names,
    "texts": TEXTS.names,
    "samples": TEXTS.names,
    "grads": GRADS.names,
    "agreement": AGREEMENT.names,
}
TOKENIZER = "tokenizer"  # in the metadata of records: which tokenizer the model read with


@dataclass(frozen=True)
class Part:
    """One kind of records of one set of rows. Each is a job of its own, so asking for another redoes none.

    kind: tokens, texts, samples, grads, agreement, or the similarity of texts or samples. names: the answers read.
    """

    rows: str
    kind: str
    names: tuple[str, ...]

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.rows}.{self.kind}.parquet"

    @property
    def of(self) -> str | None:
        """The kind of records a similarity is taken of."""
        stem, _, last = self.kind.rpartition("_")
        return stem if last == "similarity" else None


def parts(panel: Sequence[Metric]) -> list[Part]:
    """What the panel reads, a part for each set of rows and kind of records."""
    wanted = requests(panel)
    kinds = {
        "tokens": wanted.tokens,
        "texts": wanted.texts,
        "samples": wanted.samples,
        "grads": wanted.grads,
        "agreement": wanted.agreement,
        "texts_similarity": wanted.similar_texts,
        "samples_similarity": wanted.similar_samples,
    }
    return [Part(rows, kind, names) for kind, of in kinds.items() for rows, names in of.items()]


class Held:
    """The model that was read last for scoring: the parts of one model follow one another, and so read it once."""

    def __init__(self) -> None:
        self._source: str | None = None
        self._model: Any = None

    def model(self, source: str, setting: Setting) -> Any:
        """The model of a source."""
        if source != self._source:
            self.drop()
            self._model = load_model(source, setting.model.model_args, device=pick_device(setting.model.device))
            self._source = source
        return self._model

    def drop(self) -> None:
        """Let go of it."""
        self._source = self._model = None


def score(
    folder: Path,
    source: str,
    setting: Setting,
    part: Part,
    generation: Generation,
    held: Held,
    progress: Progress,
    *,
    original: str | None = None,
) -> dict[str, Any]:
    """Records of one part: each answer read once, or each question answered as `generation` says.

    original: the model that agreement compares with.
    """
    encoder = setting.encoder(source)
    model = held.model(source, setting)
    rows = setting.benchmark.sets[part.rows]
    total = units(part, rows, generation)
    done = 0

    def step(n: int) -> None:
        nonlocal done
        done += n
        progress(done, total)

    facts: dict[str, Any] = {"units": total}
    if part.kind == "tokens":
        table = score_tokens(model, rows, part.names, encoder, progress=step)
        facts["truncated_answers"] = {part.rows: int(table.schema.metadata[TRUNCATED.encode()])}
    elif part.kind == "grads":
        table = score_grads(model, rows, part.names, encoder, progress=step)
    elif part.kind == "agreement":
        other = load_model(str(original), setting.model.model_args, device=pick_device(setting.model.device))
        table = score_agreement(model, other, rows, part.names, encoder, progress=step)
    else:
        limits = setting.benchmark.generation.get(part.rows)
        how = limited(generation, limits)
        table = texts_table(generate_texts(model, rows, "answer", encoder, how, progress=step))
    mark = {TOKENIZER.encode(): tokenizer_mark(encoder.tokenizer).encode()}
    pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), **mark}), folder / part.file)
    return facts


def limited(generation: Generation, limits: Limits | None) -> Generation:
    """How a set is generated from: as the settings say, but no longer than the benchmark allows."""
    if limits is None:
        return generation
    n = min(generation.max_new_tokens, limits.max_new_tokens)
    return dataclasses.replace(generation, max_new_tokens=n, stop=(*generation.stop, *limits.stop))


def compare_texts(
    folder: Path, texts: Path, setting: Setting, part: Part, embedder: str, progress: Progress
) -> dict[str, Any]:
    """The similarity of stored generations to the named answers. The model itself is not read."""
    made = text_records(pq.read_table(texts / f"{part.rows}.{part.of}.parquet"))
    table = score_similarity(
        Embedder(embedder, pick_device(setting.model.device)), made, setting.benchmark.sets[part.rows], part.names
    )
    pq.write_table(table, folder / part.file)
    progress(1, 1)
    return {"compared": table.num_rows}


def gather(folder: Path, parents: Mapping[str, Path]) -> dict[str, Any]:
    """All records of one model in one folder, as links to those of its parts."""
    for parent in parents.values():
        for file in sorted(parent.glob("*.parquet")):
            link(file, folder / file.name)
    return {"parts": sorted(parents)}


def tokenizer_mark(tokenizer: Any) -> str:
    """What makes two tokenizers the same for records: the ids of all tokens, and the one that ends a text."""
    return fingerprint({"vocabulary": dict(tokenizer.get_vocab()), "eos": int(tokenizer.eos_token_id)})


def units(part: Part, rows: RowSet, generation: Generation) -> int:
    """How many answers or prompts a part reads."""
    if part.kind in ("texts", "samples"):
        return len(rows.rows) * generation.samples
    return sum(len(wanted_variants(r, part.names)) for r in rows.rows)


def measure(
    folder: Path,
    records: Path,
    setting: Setting,
    panel: Sequence[Metric],
    retain: Mapping[str, Result] | None,
    meta: Mapping[str, Any],
    shadows: Sequence[Path] = (),
) -> dict[str, Any]:
    """The panel over stored records, as EVAL and SUMMARY files. No model is read.

    shadows: the records of the retain models that `Metric.shadows` reads.
    """
    read = {parent for m in panel if m.shadows for parent in m.parents.values()}
    fewer = with_parents(panel, read)
    others = [_compute(path, setting, fewer, None) for path in shadows] if fewer else []
    results = _compute(records, setting, panel, retain, others)
    mark = tokenizer_of(records)
    write_results(
        folder, results, {**meta, **({TOKENIZER: mark} if mark else {})}, prefix=f"{setting.benchmark.eval_name}_"
    )
    return {name: None if math.isnan(r.value) else r.value for name, r in results.items()}


def _compute(
    records: Path,
    setting: Setting,
    panel: Sequence[Metric],
    retain: Mapping[str, Result] | None,
    shadows: Sequence[Mapping[str, Result]] = (),
) -> dict[str, Result]:
    """The panel over the records that are there; a metric whose records are not is missing, and says so."""
    wanted = requests(panel)
    sets = setting.benchmark.sets
    read = {p: pq.read_table(records / p.file) for p in parts(panel) if (records / p.file).is_file()}
    of = {(p.rows, p.kind): table for p, table in read.items()}
    extra = Extra(
        samples=_texts(of, "samples", wanted.samples, sets),
        grads={rows: grad_records(of[rows, "grads"]) for rows in wanted.grads if (rows, "grads") in of},
        agreement={
            rows: agreement_records(of[rows, "agreement"]) for rows in wanted.agreement if (rows, "agreement") in of
        },
        kept={m.name: rows_where(sets[m.rows], m) for m in panel if m.rows and m.where},
        shadows=shadows,
    )
    tokens = {rows: token_records(of[rows, "tokens"]) for rows in wanted.tokens if (rows, "tokens") in of}
    return compute(panel, tokens, _texts(of, "texts", wanted.texts, sets), retain, extra)


def _texts(
    of: Mapping[tuple[str, str], Any], kind: str, wanted: Mapping[str, tuple[str, ...]], sets: Mapping[str, RowSet]
) -> Texts:
    """Generations by rows and answer held against, beside their similarity to it where that was measured."""
    out: dict[tuple[str, str], list[Text]] = {}
    for name, references in wanted.items():
        if (name, kind) not in of:
            continue
        made = text_records(of[name, kind])
        near = similarity_records(of[name, f"{kind}_similarity"]) if (name, f"{kind}_similarity") in of else {}
        rows = {r.row_id: r for r in sets[name].rows}
        for variant in references:
            cosine = near.get(variant, {})
            out[name, variant] = [
                dataclasses.replace(
                    t, reference=rows[t.row_id].answers[variant], similarity=cosine.get((t.row_id, t.sample))
                )
                for t in made
            ]
    return out


def tokenizer_of(records: Path) -> str | None:
    """The tokenizer that records say they were made with."""
    for file in sorted(records.glob("*.parquet")):
        found = (pq.read_schema(file).metadata or {}).get(TOKENIZER.encode())
        if found:
            return str(found.decode())
    return None


def rows_where(rows: RowSet, metric: Metric) -> frozenset[int]:
    """The rows a metric's `where` leaves. Raises ConfigError for a key that no row's meta has."""
    kept = {r.row_id for r in rows}
    known = sorted({key for r in rows for key in r.meta})
    for written, value in metric.where.items():
        key = written.removeprefix("!")
        if key not in known:
            raise ConfigError(
                f"metric {metric.name}: where.{written}: no row of {rows.name} has such a key{nearest(key, known)}"
            )
        wanted = value if isinstance(value, list | tuple) else [value]
        matched = set()
        for row in rows:
            held = row.meta.get(key)
            matched |= {row.row_id} if any(v in wanted for v in (held if isinstance(held, list) else [held])) else set()
        kept = kept - matched if written.startswith("!") else kept & matched
    return frozenset(kept)
