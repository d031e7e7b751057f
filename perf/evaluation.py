"""A whole evaluation in one run, against the plain way of one pass for each metric, side by side on the same model.

    python perf/evaluation.py [--scale 0.1] [--tofu FOLDER] [--model FOLDER | --preset llama-8m] [--only muse,choice]

The plain way is written out in `plain.py`. Rows are made up, with TOFU's and MUSE's counts and lengths (--scale takes
a fraction); --tofu reads the real ones. Without --model the model is a random one, which never ends a text: all
generations run to their limit, which is the least that leaving rows can win. The reference attack's second model has
the same shape and other weights; both ways run it on the rows that the attack reads. Both ways run in turns; the table
holds the seconds of the clock and, because a shared machine makes those noisy, of the processors. The numbers of both
ways are compared metric by metric.

Beside them stands the model's own arithmetic (`bare_work`): its forward of every distinct answer and of each question
once, without padding or anything around it.
"""

from __future__ import annotations

import argparse
import copy
import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from plain import Plain, Sets, Values, Work, loss, read
from transformers import logging

from expunge.benchmarks.api import Limits
from expunge.benchmarks.metric_suite import tofu_panel
from expunge.data.encoder import Encoder
from expunge.data.examples import Example, ExampleSet
from expunge.data.loaders.tofu import load_tofu
from expunge.data.template import Template
from expunge.evaluation.config import Generation
from expunge.evaluation.evaluator import Evaluator
from expunge.evaluation.generation import generate_texts
from expunge.evaluation.kinds import wanted_variants
from expunge.evaluation.loglikelihood import encode_items, score_tokens
from expunge.metrics.api import Metric
from expunge.metrics.compute import requests
from expunge.models.build import build_llama, train_tokenizer
from expunge.models.config import ModelArgs, TokenizerArgs
from expunge.models.load import load_model, load_tokenizer

VOCABULARY = 2048


# ---- rows


def words(draw: random.Random, low: int, high: int) -> str:
    return " ".join(f"{draw.choice('bdfgklmnprst')}{draw.choice('aeiou')}{draw.choice('lmnrst')}{draw.choice('aeiou')}"
                    for _ in range(draw.randint(low, high)))  # fmt: skip


def tofu_rows(scale: float) -> Sets:
    """TOFU's counts: questions of about 12 words, answers of about 28; of the real world, answers of 1 to 4."""
    draw = random.Random(0)

    def made(name: str, n: int, wrong: int, low: int, high: int, *, paraphrase: bool) -> ExampleSet:
        rows = []
        for i in range(max(8, int(n * scale))):
            answers = {"answer": words(draw, low, high)}
            if paraphrase:
                answers["paraphrase"] = words(draw, low, high)
            answers |= {f"perturbed_{k}": words(draw, low, high) for k in range(wrong)}
            rows.append(Example(i, words(draw, 7, 17) + "?", answers))
        return ExampleSet(name, tuple(rows))

    return {
        "forget_eval": made("forget_eval", 400, 5, 14, 45, paraphrase=True),
        "retain_eval": made("retain_eval", 400, 5, 14, 45, paraphrase=True),
        "real_authors": made("real_authors", 100, 3, 1, 3, paraphrase=False),
        "world_facts": made("world_facts", 117, 3, 1, 4, paraphrase=False),
        "holdout": made("holdout", 400, 0, 14, 45, paraphrase=False),
    }


def cut(sets: Sets, scale: float) -> Sets:
    """The first rows of each set."""
    return {
        n: ExampleSet(n, s.rows[: max(8, int(len(s) * scale))], form=s.form, shots=s.shots) for n, s in sets.items()
    }


def muse_rows(scale: float) -> Sets:
    """MUSE's counts: 10-shot questions, passages to go on with, and long texts for the attacks."""
    draw = random.Random(1)
    n = max(8, int(100 * scale))
    shots = tuple((words(draw, 10, 16) + "?", words(draw, 2, 8)) for _ in range(10))

    def made(name: str, question: tuple[int, int], answer: tuple[int, int], **kwargs: Any) -> ExampleSet:
        rows = tuple(Example(i, words(draw, *question), {"answer": words(draw, *answer)}) for i in range(n))
        return ExampleSet(name, rows, **kwargs)

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
        rows = tuple(Example(i, question(), answers) for i in range(max(8, int(60 * scale))))
        sets[f"subject_{k}"] = ExampleSet(f"subject_{k}", rows, form="text", shots=shots)
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
NEEDS_A_RETAIN_MODEL = ("forget_quality",)
NOT_THEIRS = ("forget_Q_A_PARA_ROUGE",)  # another reading of generations that are there


def tofu_work(sets: Sets, *, everything: bool) -> Work:
    panel = [
        m if m.family != "privleak" else Metric("privleak", "privleak", args={"ref_value": 0.5}, parents=m.parents)
        for m in tofu_panel(holdout=True)
        if m.name not in NEEDS_A_RETAIN_MODEL + NOT_THEIRS
    ]
    sides = {"members": "mia_gradnorm_forget", "others": "mia_gradnorm_holdout"}
    panel.append(Metric("mia_gradnorm", "attack_auc", parents=sides))
    for side, rows in zip(sides.values(), ("forget_eval", "holdout"), strict=True):
        panel.append(Metric(side, "gradnorm_score", rows=rows, reads={"grads": ("answer",)}))
    chosen = panel if everything else with_parents(panel, DEFAULT)
    return Work(sets, chosen, {m.rows: 200 for m in chosen if m.rows and "texts" in m.reads})


def muse_work(sets: Sets) -> Work:
    f1 = {"statistic": "rougeL_f1"}
    panel = [
        *(Metric(f"{s}_ROUGE", "rouge", rows=s, reads={"texts": ("answer",)}, args=f1)
          for s in ("forget_knowmem", "retain_knowmem", "verbmem")),
        Metric("exact_memorization", "exact_memorization", rows="verbmem", reads={"tokens": ("answer",)}),
        Metric("extraction_strength", "extraction_strength", rows="verbmem", reads={"tokens": ("answer",)}),
    ]  # fmt: skip
    for attack in ("loss", "zlib", "min_k", "min_k_plus_plus"):
        sides = {"members": f"mia_{attack}_forget", "others": f"mia_{attack}_holdout"}
        panel.append(Metric(f"mia_{attack}", "attack_auc", parents=sides))
        for side in ("forget", "holdout"):
            panel.append(
                Metric(f"mia_{attack}_{side}", f"{attack}_score", rows=f"mia_{side}", reads={"tokens": ("answer",)})
            )
    panel.append(Metric("privleak", "privleak", args={"ref_value": 0.5}, parents={"auc": "mia_min_k"}))
    return Work(sets, panel, {"forget_knowmem": 32, "retain_knowmem": 32, "verbmem": 128}, batch=8)


# ---- ours


def ours(model: Any, encoder: Encoder, work: Work, reference: Any = None) -> Values:
    panel = second_panel(work)
    second = Evaluator(metrics=panel, sets=work.sets, encoder=encoder)
    retain = second.results(second.score(reference)) if panel else None
    limits = {name: Limits(most) for name, most in work.limits.items()}
    evaluator = Evaluator(metrics=work.panel, sets=work.sets, encoder=encoder, limits=limits, retain=retain)
    return {name: result.value for name, result in evaluator.results(evaluator.score(model)).items()}


def second_panel(work: Work) -> list[Metric]:
    """What the reference attack asks of the second model."""
    asked = [m for m in work.panel if m.family == "reference_score"]
    return [Metric(m.retain or "", "loss_score", rows=m.rows, reads={"tokens": m.tokens}) for m in asked]


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


def unpadded(model: Any, lengths: Sequence[int], budget: int) -> list[torch.Tensor]:
    """Batches without padding, of as many tokens: the rows of a batch all have their mean length."""
    batches, left = [], list(lengths)
    while left:
        n = max(1, budget // left[0])
        some, left = left[:n], left[n:]
        batches.append(torch.full((len(some), round(sum(some) / len(some))), 7, device=model.device))
    return batches


def bare_sizes(encoder: Encoder, work: Work) -> dict[str, list[tuple[int, int]]]:
    """The tokens that each model must read for an evaluation, and how many logits of them, one pair for each sequence.

    "answers": every distinct answer and each question once. "texts": each prompt with its answer, in place of
    generating token by token. "theirs": the answers that the second model reads. "slopes": the rows of the gradient
    attack.
    """
    wanted = requests(work.panel)
    sizes: dict[str, list[tuple[int, int]]] = {"answers": [], "texts": [], "theirs": [], "slopes": []}
    for name, variants in wanted["tokens"].items():
        by_row: dict[int, list[Any]] = {}
        for item in encode_items(work.sets[name], variants, encoder):
            by_row.setdefault(item.row_id, []).append(item)
        for some in by_row.values():
            scored = sum(i.n_scored for i in some)
            sizes["answers"].append((some[0].first - 1 + scored, scored))
    theirs = requests(second_panel(work))["tokens"]
    of_answers = [("texts", wanted["texts"]), ("theirs", theirs), ("slopes", wanted["grads"])]
    for which, names in of_answers:
        for name in names:
            sizes[which] += [(len(i.read), i.n_scored) for i in encode_items(work.sets[name], ("answer",), encoder)]
    return sizes


def bare_work(model: Any, sizes: dict[str, list[tuple[int, int]]], reference: Any = None) -> Values:
    """The model's own arithmetic for an evaluation (`bare_sizes`), and nothing else.

    A forward without padding and with the wanted logits only; a forward and a backward for the rows of the gradient
    attack.
    """
    own = [*sizes["answers"], *sizes["texts"]]
    for lengths, some_model in ((own, model), (sizes["theirs"], reference), (sizes["slopes"], model)):
        left = sorted(lengths, reverse=True)
        for ids in unpadded(model, [n for n, _ in left], 2048):
            some, left = left[: len(ids)], left[len(ids) :]
            keep = round(sum(k for _, k in some) / len(some))
            with torch.set_grad_enabled(lengths is sizes["slopes"]):
                logits = some_model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits
                if lengths is sizes["slopes"]:
                    logits.backward(torch.ones_like(logits))
    model.zero_grad(set_to_none=True)
    return {}


def throughput(model: Any, encoder: Encoder, rows: ExampleSet, rounds: int, *, shared_prefix: bool) -> str:
    """Tokens per second of scoring (tokenising and records included) and of the bare forward of the same tokens."""
    wanted = ("answer", "paraphrase", "perturbed")
    lengths = sorted((len(i.encoded.ids) for i in encode_items(rows, wanted, encoder)), reverse=True)
    total = sum(lengths)
    bares = [unpadded(model, lengths, budget) for budget in (2048, 8192)]
    best = {"bare": [math.inf] * 2, "scoring": [math.inf] * 2}
    for _ in range(rounds):
        for name, call in (
            *(("bare", lambda b=b: bare(model, b)) for b in bares),  # the better size of batches counts
            ("scoring", lambda: score_tokens(model, rows, wanted, encoder, shared_prefix=shared_prefix)),
        ):
            _, wall, cpu = clock(call)
            best[name] = [min(a, b) for a, b in zip(best[name], (wall, cpu), strict=True)]
    return (
        f"Scoring {total} tokens, {'questions read once' if shared_prefix else 'each answer read whole'}: "
        f"{total / best['scoring'][0]:.0f} tokens/s; bare forward with logits: {total / best['bare'][0]:.0f} tokens/s; "
        f"{best['bare'][0] / best['scoring'][0]:.0%} by the clock, {best['bare'][1] / best['scoring'][1]:.0%} by the "
        "processors"
    )


# ---- the run


def clock(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """The result, seconds of the clock and seconds of the processors."""
    wall, cpu = time.perf_counter(), time.process_time()
    got = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return got, time.perf_counter() - wall, time.process_time() - cpu


Way = Callable[[], Values]


def compare(name: str, goal: float, plain: Way, mine: Way, least: Way | None, rounds: int) -> str:
    ways = {"plain": plain, "ours": mine, **({} if least is None else {"bare": least})}
    best = {way: [math.inf] * 2 for way in ways}
    found: dict[str, Values] = {}
    for _ in range(rounds):
        for way, call in ways.items():
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
    bare_s = bare_x = "none"
    if least is not None:
        bw, bc = best["bare"]
        bare_s, bare_x = f"{bw:.1f}", f"{pw / bw:.1f}x, {pc / bc:.1f}x"
    times = f"{pw:.1f} | {ow:.1f} | {bare_s} | {pw / ow:.1f}x | {pc / oc:.1f}x | {bare_x}"
    return f"| {name} | {times} | {goal:g}x | {len(off)} | {off[worst]:.0e} ({worst}) |"


def load(folder: str | None, dtype: Any, preset: str, sets: Sequence[Sets], device: str) -> tuple[Any, Any]:
    if folder:
        tokenizer = load_tokenizer(folder, TokenizerArgs())
        return load_model(folder, ModelArgs(dtype=dtype), device=torch.device(device)), tokenizer
    texts = [t for some in sets for rows in some.values() for r in rows for t in (r.question, *r.answers.values())]
    tokenizer = train_tokenizer([*texts, " A B C D" * 50], VOCABULARY, max_length=2048)
    return build_llama(preset, tokenizer, vocab_size=VOCABULARY, seed=0).eval().to(device), tokenizer


def another(model: Any) -> Any:
    """A model like this one, whose weights are a little different."""
    other = copy.deepcopy(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1 + 0.1 * torch.randn_like(p))
    return other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--tofu", help="folder of the real TOFU files; --scale takes their first rows")
    parser.add_argument("--model", help="folder of a model, in place of a random one")
    parser.add_argument("--dtype", default="float32", help="type of the weights of --model, such as bfloat16")
    parser.add_argument("--preset", default="llama-1m", help="shape of the random model")
    parser.add_argument("--only", default="tofu_all,tofu_default,muse,choice,throughput")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    logging.set_verbosity_error()
    real = {"forget_split": "forget10", "retain_split": "retain90", "holdout_split": "holdout10"}
    tofu = cut(load_tofu(given.tofu, **real), given.scale) if given.tofu else tofu_rows(given.scale)
    muse, choice = muse_rows(given.scale), choice_rows(given.scale)
    model, tokenizer = load(given.model, given.dtype, given.preset, [tofu, muse, choice], given.device)
    reference = another(model)
    encoder = Encoder(Template(max_length=2048), tokenizer)
    for rows in (tofu["holdout"], tofu["real_authors"]):  # first calls are slow
        generate_texts(model, ExampleSet("warm", rows.rows[:4]), "answer", encoder, Generation(max_new_tokens=4))
        score_tokens(model, ExampleSet("warm", rows.rows[:8]), ("answer", "perturbed"), encoder)
    only = given.only.split(",")
    works = {
        "tofu_all": (6.0, lambda: tofu_work(tofu, everything=True)),
        "tofu_default": (3.0, lambda: tofu_work(tofu, everything=False)),
        "muse": (5.0, lambda: muse_work(muse)),
    }
    print(
        "| evaluation | plain s | ours s | bare s | clock | processors | bare | target | numbers | largest difference |"
    )
    print(f"|{' --- |' * 10}", flush=True)
    for name, (goal, make) in works.items():
        if name in only:
            work = make()
            run = lambda w=work: Plain(model, encoder, w, reference).run()  # noqa: E731
            mine = lambda w=work: ours(model, encoder, w, reference)  # noqa: E731
            sizes = bare_sizes(encoder, work)
            least = lambda s=sizes: bare_work(model, s, reference)  # noqa: E731
            print(compare(name, goal, run, mine, least, given.rounds), flush=True)
    if "choice" in only:
        plain = lambda: choice_plain(model, encoder, choice)  # noqa: E731
        print(compare("choice", 3, plain, lambda: choice_ours(model, encoder, choice), None, given.rounds), flush=True)
    if "throughput" in only:
        for shared in (False, True):
            print(
                throughput(model, encoder, tofu["forget_eval"], max(3, given.rounds), shared_prefix=shared), flush=True
            )


if __name__ == "__main__":
    main()
