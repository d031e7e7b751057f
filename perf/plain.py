"""The plain way to evaluate: every metric by itself, as the field's code does it; what the engine is measured against.

A metric reads its rows in batches of fixed size in file order, with logits at every position of every answer and its
whole question; ROUGE generates with `transformers`' generate in static batches and counts pair by pair; Min-K% runs
again for privleak, Min-K%++ runs the model twice, the reference attack runs a second model, the gradient attack takes
one backward a row. Losses that a parent metric has computed are taken from there.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import roc_auc_score

from expunge.data.encoder import Encoder
from expunge.data.examples import ExampleSet
from expunge.evaluation.kinds import wanted_variants
from expunge.metrics.api import Metric

Values = dict[str, float]
Sets = Mapping[str, ExampleSet]
STATISTIC = {"rougeL_recall": lambda s: s["rougeL"].recall, "rougeL_f1": lambda s: s["rougeL"].fmeasure}


@dataclass(frozen=True)
class Work:
    """One evaluation: rows, the metrics read off them, tokens to generate by set, and the plain way's batch size."""

    sets: Sets
    panel: Sequence[Metric]
    limits: Mapping[str, int]
    batch: int = 32


@torch.inference_mode()
def read(model: Any, encoder: Encoder, rows: ExampleSet, wanted: Sequence[str], batch: int) -> Any:
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

    def __init__(self, model: Any, encoder: Encoder, work: Work, reference: Any = None) -> None:
        self.model, self.encoder, self.work, self.reference = model, encoder, work, reference
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
        if metric.family in ("reference_score", "gradnorm_score"):
            self.scores[metric.name] = getattr(self, metric.family)(metric)
            return float(np.mean(self.scores[metric.name]))
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

    def reference_score(self, metric: Metric) -> list[float]:
        rows = self.work.sets[metric.rows or ""]
        mine, theirs = (
            [loss(p, t) for _, _, p, t in read(model, self.encoder, rows, metric.tokens, self.work.batch)]
            for model in (self.model, self.reference)
        )
        return [a - b for a, b in zip(mine, theirs, strict=True)]

    def gradnorm_score(self, metric: Metric) -> list[float]:
        """A forward and a backward for each row: theirs cannot take more at a time."""
        rows = self.work.sets[metric.rows or ""]
        scores = []
        for row in rows:
            encoded = self.encoder.row(rows, row, "".join(metric.reads.get("grads", ())))
            ids = torch.tensor([encoded.ids], device=self.model.device)
            labels = ids.clone()
            labels[0, : encoded.n_prompt] = -100
            labels[0, -1] = -100
            self.model.zero_grad(set_to_none=True)
            self.model(input_ids=ids, labels=labels, use_cache=False).loss.backward()
            norms = [p.grad.norm() for p in self.model.parameters() if p.grad is not None]
            scores.append(float(torch.stack(norms).mean()))
        self.model.zero_grad(set_to_none=True)
        return scores

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
