"""A whole evaluation in one run, against the plain way of one pass for each metric, side by side on the same model.

    python perf/evaluation.py [--scale 0.1] [--tofu FOLDER] [--model FOLDER | --preset llama-8m] [--only muse,choice]

The plain way, written out below: every metric reads its rows by itself, in batches of fixed size in file order, with
logits at every position of every answer with its whole question; ROUGE generates with `transformers`' generate in
static batches and counts pair by pair; Min-K% runs again for privleak, Min-K%++ runs the model twice. Rows are made up,
with TOFU's and MUSE's counts and lengths (--scale takes a fraction); --tofu reads the real ones. Without --model the
model is a random one, which never ends a text: all generations run to their limit, which is the least that leaving
rows can win. Both ways run in turns; the table holds the seconds of the clock and, because a shared machine makes those
noisy, of the processors. The numbers of both ways are compared metric by metric.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import roc_auc_score
from transformers import logging

from expunge.benchmarks.panel import tofu_panel
from expunge.core.records import token_records
from expunge.data.rows import Row, RowSet
from expunge.data.template import Encoder, Template
from expunge.data.tofu import load_tofu
from expunge.metrics.api import Metric
from expunge.metrics.compute import compute, requests
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.config import ModelArgs, TokenizerArgs
from expunge.models.load import load_model, load_tokenizer
from expunge.scoring.config import Generation
from expunge.scoring.texts import generate_texts
from expunge.scoring.tokens import encode_items, score_tokens, wanted_variants

VOCABULARY = 2048
Values = dict[str, float]
Sets = Mapping[str, RowSet]
STATISTIC = {"rougeL_recall": lambda s: s["rougeL"].recall, "rougeL_f1": lambda s: s["rougeL"].fmeasure}


@dataclass(frozen=True)
class Work:
    """One evaluation: rows, the metrics read off them, tokens to generate by set, and the plain way's batch size."""

    sets: Sets
    panel: Sequence[Metric]
    limits: Mapping[str, int]
    batch: int = 32


# ---- rows


def words(draw: random.Random, low: int, high: int) -> str:
    return " ".join(f"{draw.choice('bdfgklmnprst')}{draw.choice('aeiou')}{draw.choice('lmnrst')}{draw.choice('aeiou')}"
                    for _ in range(draw.randint(low, high)))  # fmt: skip


def tofu_rows(scale: float) -> Sets:
    """TOFU's counts: questions of about 12 words, answers of about 28; of the real world, answers of 1 to 4."""
    draw = random.Random(0)

    def made(name: str, n: int, wrong: int, low: int, high: int, *, paraphrase: bool) -> RowSet:
        rows = []
        for i in range(max(8, int(n * scale))):
            answers = {"answer": words(draw, low, high)}
            if paraphrase:
                answers["paraphrase"] = words(draw, low, high)
            answers |= {f"perturbed_{k}": words(draw, low, high) for k in range(wrong)}
            rows.append(Row(i, words(draw, 7, 17) + "?", answers))
        return RowSet(name, tuple(rows))

    return {
        "forget_eval": made("forget_eval", 400, 5, 14, 45, paraphrase=True),
        "retain_eval": made("retain_eval", 400, 5, 14, 45, paraphrase=True),
        "real_authors": made("real_authors", 100, 3, 1, 3, paraphrase=False),
        "world_facts": made("world_facts", 117, 3, 1, 4, paraphrase=False),
        "holdout": made("holdout", 400, 0, 14, 45, paraphrase=False),
    }


def cut(sets: Sets, scale: float) -> Sets:
    """The first rows of each set."""
    return {n: RowSet(n, s.rows[: max(8, int(len(s) * scale))], form=s.form, shots=s.shots) for n, s in sets.items()}


def muse_rows(scale: float) -> Sets:
    """MUSE's counts: 10-shot questions, passages to go on with, and long texts for the attacks."""
    draw = random.Random(1)
    n = max(8, int(100 * scale))
    shots = tuple((words(draw, 10, 16) + "?", words(draw, 2, 8)) for _ in range(10))

    def made(name: str, question: tuple[int, int], answer: tuple[int, int], **kwargs: Any) -> RowSet:
        rows = tuple(Row(i, words(draw, *question), {"answer": words(draw, *answer)}) for i in range(n))
        return RowSet(name, rows, **kwargs)

    texts = {"form": "text"}
    members, others = (made(s, (1, 1), (350, 600), **texts) for s in ("mia_forget", "mia_holdout"))
    return {
        "forget_knowmem": made("forget_knowmem", (10, 16), (2, 8), shots=shots),
        "retain_knowmem": made("retain_knowmem", (10, 16), (2, 8), shots=shots),
        "verbmem": made("verbmem", (120, 160), (50, 70), form="completion"),
        "mia_forget": members,
        "mia_holdout": others,
    }


def choice_rows(scale: float) -> Sets:
    """Multiple choice after five solved examples, ten subjects with examples of their own."""
    draw = random.Random(2)
    letters = "ABCD"

    def question() -> str:
        return words(draw, 15, 30) + "?\n" + "".join(f"{x}. {words(draw, 2, 8)}\n" for x in letters) + "Answer:"

    sets = {}
    for k in range(10):
        shots = tuple((question(), draw.choice(letters)) for _ in range(5))
        answers = {"answer": "A", **{f"perturbed_{i}": x for i, x in enumerate("BCD")}}
        rows = tuple(Row(i, question(), answers) for i in range(max(8, int(60 * scale))))
        sets[f"subject_{k}"] = RowSet(f"subject_{k}", rows, form="text", shots=shots)
    return sets


# ---- metrics


def with_parents(panel: Sequence[Metric], names: Sequence[str]) -> list[Metric]:
    """The named metrics and those they read."""
    by_name = {m.name: m for m in panel}
    wanted = list(names)
    for name in wanted:
        wanted += [p for p in by_name[name].parents.values() if p not in wanted]
    return [m for m in panel if m.name in wanted]


DEFAULT = ("forget_truth_ratio", "forget_Q_A_Prob", "forget_Q_A_ROUGE", "model_utility", "privleak",
           "extraction_strength")  # fmt: skip
NEEDS_A_RETAIN_MODEL = ("forget_quality", "mia_reference", "mia_reference_forget", "mia_reference_holdout")
NOT_THEIRS = ("forget_Q_A_PARA_ROUGE",)  # another reading of generations that are there


def tofu_work(sets: Sets, *, everything: bool) -> Work:
    panel = [
        m if m.family != "privleak" else Metric("privleak", "privleak", args={"ref_value": 0.5}, parents=m.parents)
        for m in tofu_panel(holdout=True)
        if m.name not in NEEDS_A_RETAIN_MODEL + NOT_THEIRS
    ]
    chosen = panel if everything else with_parents(panel, DEFAULT)
    return Work(sets, chosen, {m.rows: 200 for m in chosen if m.rows and m.texts is not None})


def muse_work(sets: Sets) -> Work:
    f1 = {"statistic": "rougeL_f1"}
    panel = [
        *(Metric(f"{s}_ROUGE", "rouge", rows=s, texts="answer", args=f1)
          for s in ("forget_knowmem", "retain_knowmem", "verbmem")),
        Metric("exact_memorization", "exact_memorization", rows="verbmem", tokens=("answer",)),
        Metric("extraction_strength", "extraction_strength", rows="verbmem", tokens=("answer",)),
    ]  # fmt: skip
    for attack in ("loss", "zlib", "min_k", "min_k_plus_plus"):
        sides = {"members": f"mia_{attack}_forget", "others": f"mia_{attack}_holdout"}
        panel.append(Metric(f"mia_{attack}", "attack_auc", parents=sides))
        for side in ("forget", "holdout"):
            panel.append(Metric(f"mia_{attack}_{side}", f"{attack}_score", rows=f"mia_{side}", tokens=("answer",)))
    panel.append(Metric("privleak", "privleak", args={"ref_value": 0.5}, parents={"auc": "mia_min_k"}))
    return Work(sets, panel, {"forget_knowmem": 32, "retain_knowmem": 32, "verbmem": 128}, batch=8)


# ---- ours


def ours(model: Any, encoder: Encoder, work: Work) -> Values:
    wanted = requests(work.panel)
    tokens = {n: token_records(score_tokens(model, work.sets[n], v, encoder)) for n, v in wanted.tokens.items()}
    texts = {}
    for name in wanted.texts:
        how = Generation(max_new_tokens=work.limits[name])
        texts[name, "answer"] = generate_texts(model, work.sets[name], "answer", encoder, how)
    return {name: r.value for name, r in compute(work.panel, tokens, texts).items()}


# ---- the plain way


@torch.inference_mode()
def read(model: Any, encoder: Encoder, rows: RowSet, wanted: Sequence[str], batch: int) -> Any:
    """For each row and variant: log-probabilities over the vocabulary at the answer's places, and its tokens."""
    todo = [(r, v) for r in rows for v in wanted_variants(r, wanted)]
    for k in range(0, len(todo), batch):
        some = [encoder.row(rows, r, v) for r, v in todo[k : k + batch]]
        width = max(len(e.ids) for e in some)
        ids = torch.zeros((len(some), width), dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for i, e in enumerate(some):
            ids[i, : len(e.ids)] = torch.tensor(e.ids)
            mask[i, : len(e.ids)] = 1
            labels[i, max(e.n_prompt, 1) : len(e.ids)] = ids[i, max(e.n_prompt, 1) : len(e.ids)]
        ids, mask, labels = (x.to(model.device) for x in (ids, mask, labels))
        logits = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).logits
        logps = torch.log_softmax(logits[:, :-1].float(), -1)
        for i, (row, _) in enumerate(todo[k : k + batch]):
            at = labels[i, 1:] != -100
            yield row, encoder, logps[i][at], ids[i, 1:][at]


def loss(logps: torch.Tensor, tokens: torch.Tensor) -> float:
    return -float(logps.gather(1, tokens[:, None]).mean())


def lowest(values: torch.Tensor) -> float:
    """Minus the mean of the 40 % lowest, the last token left out."""
    kept = values[:-1]
    return -float(kept.sort().values[: max(1, int(len(kept) * 0.4))].mean())


def min_k(logps: torch.Tensor, tokens: torch.Tensor) -> float:
    return lowest(logps.gather(1, tokens[:, None])[:, 0])


def min_k_plus_plus(logps: torch.Tensor, tokens: torch.Tensor) -> float:
    mean = (logps.exp() * logps).sum(-1)
    var = ((logps.exp() * logps.square()).sum(-1) - mean.square()).clamp(min=1e-6)
    return lowest((logps.gather(1, tokens[:, None])[:, 0] - mean) / var.sqrt())


def zlib_score(logps: torch.Tensor, tokens: torch.Tensor, encoder: Encoder) -> float:
    import zlib

    return loss(logps, tokens) / len(zlib.compress(encoder.tokenizer.decode(tokens, skip_special_tokens=True).encode()))


def memorised(logps: torch.Tensor, tokens: torch.Tensor) -> float:
    return float((logps.argmax(-1) == tokens)[:-1].float().mean())


def strength(logps: torch.Tensor, tokens: torch.Tensor) -> float:
    said, true = logps.argmax(-1)[:-1], tokens[:-1]
    for k in range(len(true)):
        if torch.equal(said[k:], true[k:]):
            return 1 - k / len(true)
    return 0.0


ONE_PASS: Mapping[str, Callable[..., float]] = {
    "loss_score": loss, "min_k_score": min_k, "min_k_plus_plus_score": min_k_plus_plus,
    "exact_memorization": memorised, "extraction_strength": strength,
}  # fmt: skip


class Plain:
    """The metrics of one evaluation, each by itself. Losses that another metric has computed are taken from there."""

    def __init__(self, model: Any, encoder: Encoder, work: Work) -> None:
        self.model, self.encoder, self.work = model, encoder, work
        self.losses: dict[tuple[str, str], dict[int, list[float]]] = {}
        self.scores: dict[str, list[float]] = {}
        self.values: Values = {}

    def run(self) -> Values:
        by_name = {m.name: m for m in self.work.panel}
        for metric in sorted(self.work.panel, key=lambda m: bool(m.parents)):
            self.values[metric.name] = math.nan if metric.parents else self.one(metric)
        for family in ("attack_auc", "privleak", "model_utility"):
            for metric in self.work.panel:
                if metric.family == family:
                    self.values[metric.name] = self.from_parents(metric, by_name)
        return self.values

    def read(self, metric: Metric, wanted: Sequence[str]) -> Any:
        return read(self.model, self.encoder, self.work.sets[metric.rows or ""], wanted, self.work.batch)

    def one(self, metric: Metric) -> float:
        if metric.family == "rouge":
            return self.rouge(metric)
        if metric.family in ("probability", "probability_w_options", "truth_ratio"):
            return self.answers(metric)
        values = []
        for _ in range(2 if metric.family == "min_k_plus_plus_score" else 1):  # theirs runs the model twice
            values = [
                zlib_score(logps, tokens, enc)
                if metric.family == "zlib_score"
                else ONE_PASS[metric.family](logps, tokens)
                for _, enc, logps, tokens in self.read(metric, metric.tokens)
            ]
        self.scores[metric.name] = values
        return float(np.mean(values))

    def answers(self, metric: Metric) -> float:
        groups = []
        for name in metric.tokens:
            key = (metric.rows or "", name)
            if key not in self.losses:  # a parent that has run is not run again
                by_row: dict[int, list[float]] = {}
                for row, _, logps, tokens in self.read(metric, (name,)):
                    by_row.setdefault(row.row_id, []).append(loss(logps, tokens))
                self.losses[key] = by_row
            groups.append(self.losses[key])
        if metric.family == "probability":
            return float(np.mean([np.mean(np.exp(-np.array(x))) for x in groups[0].values()]))
        right, wrong = ([np.array(x) for x in g.values()] for g in groups)
        if metric.family == "probability_w_options":
            return float(np.mean([np.exp(-r[0]) / (np.exp(-r[0]) + np.exp(-w).sum())
                                  for r, w in zip(right, wrong, strict=True)]))  # fmt: skip
        ratio = np.array([np.exp(-w.mean()) / np.exp(-r.mean()) for r, w in zip(right, wrong, strict=True)])
        if metric.args["aggregate"] == "true_better":
            return float(np.mean(np.maximum(0, 1 - ratio)))
        return float(np.mean(np.minimum(ratio, 1 / ratio)))

    def rouge(self, metric: Metric) -> float:
        rows = self.work.sets[metric.rows or ""]
        scorer, batch, tokenizer = (
            RougeScorer(["rouge1", "rougeL"], use_stemmer=True),
            self.work.batch,
            self.encoder.tokenizer,
        )
        values = []
        for k in range(0, len(rows), batch):
            some = rows.rows[k : k + batch]
            prompts = [self.encoder.row_prompt(rows, r) for r in some]
            width = max(map(len, prompts))
            ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=self.model.device)
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.model.device)
            with torch.inference_mode():
                out = self.model.generate(
                    input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=self.work.limits[rows.name],
                    pad_token_id=tokenizer.pad_token_id,
                )  # fmt: skip
            for row, new in zip(some, out[:, width:], strict=True):
                text = tokenizer.decode(new, skip_special_tokens=True).strip()
                score = scorer.score(row.answers["answer"], text)
                values.append(STATISTIC[metric.args["statistic"]](score))
        return float(np.mean(values))

    def from_parents(self, metric: Metric, by_name: Mapping[str, Metric]) -> float:
        if metric.family == "attack_auc":
            return self.auc([self.scores[metric.parents[s]] for s in ("members", "others")])
        if metric.family == "privleak":  # its own run of the attack
            attack = by_name[metric.parents["auc"]]
            sides = [by_name[attack.parents[s]] for s in ("members", "others")]
            both = [[min_k(p, t) for _, _, p, t in self.read(m, m.tokens)] for m in sides]
            return 100 * ((1 - self.auc(both)) - 0.5) / (0.5 + 1e-10)
        parts = [self.values[p] for p in metric.parents.values()]
        return 0.0 if min(parts) == 0 else len(parts) / sum(1 / x for x in parts)

    @staticmethod
    def auc(sides: Sequence[Sequence[float]]) -> float:
        return float(roc_auc_score(np.repeat([0, 1], [len(s) for s in sides]), np.concatenate(sides)))


# ---- multiple choice and the bare forward


def choice_ours(model: Any, encoder: Encoder, sets: Sets) -> Values:
    out: Values = {}
    for name, rows in sets.items():
        table = score_tokens(model, rows, ("answer", "perturbed"), encoder)
        keys = zip(table["row_id"].to_pylist(), table["variant"].to_pylist(), table["logp"].to_pylist(), strict=True)
        for row, variant, logp in keys:
            out[f"{name} {row} {variant}"] = out.get(f"{name} {row} {variant}", 0.0) + logp
    return out


def choice_plain(model: Any, encoder: Encoder, sets: Sets) -> Values:
    out: Values = {}
    for name, rows in sets.items():
        keys = [f"{name} {r.row_id} {v}" for r in rows for v in wanted_variants(r, ("answer", "perturbed"))]
        found = read(model, encoder, rows, ("answer", "perturbed"), 32)
        out |= {k: -loss(p, t) * len(t) for k, (_, _, p, t) in zip(keys, found, strict=True)}
    return out


@torch.inference_mode()
def bare(model: Any, batches: Sequence[torch.Tensor]) -> None:
    for ids in batches:
        model(input_ids=ids, use_cache=False)


def throughput(model: Any, encoder: Encoder, rows: RowSet, rounds: int, *, shared_prefix: bool) -> str:
    """Tokens per second of scoring (tokenising and records included) and of the bare forward of the same tokens."""
    wanted = ("answer", "paraphrase", "perturbed")
    lengths = sorted((len(i.encoded.ids) for i in encode_items(rows, wanted, encoder)), reverse=True)
    batches, total = [], sum(lengths)
    while lengths:  # no padding at all: rows of one length stand for all of a batch, of as many tokens
        n = max(1, 8192 // lengths[0])
        some, lengths = lengths[:n], lengths[n:]
        full, rest = divmod(sum(some), some[0])
        batches += [torch.full((full, some[0]), 7, device=model.device)] * bool(full)
        batches += [torch.full((1, rest), 7, device=model.device)] * bool(rest)
    best = {"bare": math.inf, "scoring": math.inf}
    for _ in range(rounds):
        for name, call in (
            ("bare", lambda: bare(model, batches)),
            ("scoring", lambda: score_tokens(model, rows, wanted, encoder, shared_prefix=shared_prefix)),
        ):
            best[name] = min(best[name], clock(call)[1])
    return (
        f"Scoring {total} tokens, {'questions read once' if shared_prefix else 'each answer read whole'}: "
        f"{total / best['scoring']:.0f} tokens/s; bare forward with logits: {total / best['bare']:.0f} tokens/s; "
        f"{best['bare'] / best['scoring']:.0%}"
    )


# ---- the run


def clock(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result, seconds of the clock and seconds of the processors."""
    wall, cpu = time.perf_counter(), time.process_time()
    got = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return got, time.perf_counter() - wall, time.process_time() - cpu


def compare(name: str, goal: float, plain: Callable[[], Values], mine: Callable[[], Values], rounds: int) -> str:
    best = {"plain": [math.inf] * 2, "ours": [math.inf] * 2}
    found: dict[str, Values] = {}
    for _ in range(rounds):
        for way, call in (("plain", plain), ("ours", mine)):
            found[way], *seconds = clock(call)
            best[way] = [min(a, b) for a, b in zip(best[way], seconds, strict=True)]
    off = {
        k: abs(v - found["plain"][k]) / max(1.0, abs(v))
        for k, v in found["ours"].items()
        if not (math.isnan(v) and math.isnan(found["plain"][k]))
    }
    assert set(found["ours"]) == set(found["plain"])
    worst = max(off, key=lambda k: off[k] if off[k] == off[k] else math.inf)
    (pw, pc), (ow, oc) = best["plain"], best["ours"]
    times = f"{pw:.1f} | {ow:.1f} | {pw / ow:.1f}x | {pc / oc:.1f}x"
    return f"| {name} | {times} | {goal:g}x | {len(off)} | {off[worst]:.0e} ({worst}) |"


def load(folder: str | None, preset: str, sets: Sequence[Sets], device: str) -> tuple[Any, Any]:
    if folder:
        tokenizer = load_tokenizer(folder, TokenizerArgs())
        return load_model(folder, ModelArgs(), device=torch.device(device)), tokenizer
    texts = [t for some in sets for rows in some.values() for r in rows for t in (r.question, *r.answers.values())]
    tokenizer = train_tokenizer([*texts, " A B C D" * 50], VOCABULARY, max_length=2048)
    return build_llama(preset, tokenizer, vocab_size=VOCABULARY, seed=0).eval().to(device), tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tofu", help="folder of the real TOFU files; --scale takes their first rows")
    parser.add_argument("--model", help="folder of a model, in place of a random one")
    parser.add_argument("--preset", default="llama-1m", help="shape of the random model")
    parser.add_argument("--only", default="tofu_all,tofu_default,muse,choice,throughput")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    logging.set_verbosity_error()
    real = {"forget_split": "forget10", "retain_split": "retain90", "holdout_split": "holdout10"}
    tofu = cut(load_tofu(given.tofu, **real), given.scale) if given.tofu else tofu_rows(given.scale)
    muse, choice = muse_rows(given.scale), choice_rows(given.scale)
    model, tokenizer = load(given.model, given.preset, [tofu, muse, choice], given.device)
    encoder = Encoder(Template(max_length=2048), tokenizer)
    for rows in (tofu["holdout"], tofu["real_authors"]):  # first calls are slow
        generate_texts(model, RowSet("warm", rows.rows[:4]), "answer", encoder, Generation(max_new_tokens=4))
        score_tokens(model, RowSet("warm", rows.rows[:8]), ("answer", "perturbed"), encoder)
    only = given.only.split(",")
    works = {
        "tofu_all": (6.0, lambda: tofu_work(tofu, everything=True)),
        "tofu_default": (3.0, lambda: tofu_work(tofu, everything=False)),
        "muse": (5.0, lambda: muse_work(muse)),
    }
    print("| evaluation | plain s | ours s | clock | processors | target | numbers | largest difference |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name, (goal, make) in works.items():
        if name in only:
            work = make()
            run = lambda w=work: Plain(model, encoder, w).run()  # noqa: E731
            print(compare(name, goal, run, lambda w=work: ours(model, encoder, w), given.rounds), flush=True)
    if "choice" in only:
        plain = lambda: choice_plain(model, encoder, choice)  # noqa: E731
        print(compare("choice", 3, plain, lambda: choice_ours(model, encoder, choice), given.rounds), flush=True)
    if "throughput" in only:
        for shared in (False, True):
            print(
                throughput(model, encoder, tofu["forget_eval"], max(3, given.rounds), shared_prefix=shared), flush=True
            )


if __name__ == "__main__":
    main()
