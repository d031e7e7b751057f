"""Training on token shards: our loop against a bare PyTorch loop, in turns, with the same batches.

    python perf/stories_training.py [--preset llama-2m] [--batch 16] [--seq 256] [--steps 12] [--rounds 3]

"bare": ids that lie in memory, the model's logits, cross-entropy, backward, clipping, AdamW, schedule; nothing is
logged. "ours": `expunge.training.loop.train` on `TokenDocuments`, with its log at every fifth step. The same steps from
the same weights; the last losses must agree. The best round of each counts, because absolute times are noise on a
shared machine. "wait": the share of our time in which batches are put together.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VOCABULARY = 2048
LOGGED = 5  # steps between lines of the log


def prepare(folder: Path, n: int) -> tuple[Path, Path]:
    """A data set of generated stories under a folder, and its tokenizer."""
    command = [sys.executable, "-m", "expunge", "data", "stories"]
    subprocess.run([*command, "generate", "--n", str(n), "--out", folder], check=True, stdout=subprocess.DEVNULL)
    size = ["--in", folder, "--vocab_size", str(VOCABULARY)]
    for words in (["train-vocab", *size], ["pretokenize", *size, "--dataset_name", "all"]):
        subprocess.run([*command, *words], check=True, stdout=subprocess.DEVNULL)
    return folder / f"tok{VOCABULARY}" / "all", folder / "tokenizers" / f"bpe{VOCABULARY}"


def bare(model: Any, batches: Any, args: Any) -> tuple[tuple[float, float], float]:
    """Wall and CPU seconds of the steps of a loop as one writes it by hand, and the mean of the last losses."""
    import torch
    import torch.nn.functional as F
    from transformers import get_cosine_schedule_with_warmup

    plain = [p for p in model.parameters() if p.ndim < 2]
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": args.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=args.learning_rate, betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon,
    )  # fmt: skip
    schedule = get_cosine_schedule_with_warmup(optimizer, args.warmup(1), len(batches))
    model.train()
    losses: list[Any] = []
    start = time.perf_counter(), time.process_time()
    for ids_BT in batches:
        logits = model(input_ids=ids_BT, use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids_BT[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    took = time.perf_counter() - start[0], time.process_time() - start[1]
    return took, float(torch.stack(losses[-LOGGED:]).mean())


def main() -> None:
    """Both ways in turns, and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="llama-2m")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--n", type=int, default=6000, help="stories")
    parser.add_argument("--threads", type=int, default=0, help="0: as torch has it")
    wanted = parser.parse_args()

    import torch

    from expunge.data.stories.documents import TokenDocuments
    from expunge.methods.objective import objective
    from expunge.models.build import build_llama
    from expunge.models.config import TokenizerArgs
    from expunge.models.load import load_tokenizer
    from expunge.training.config import TrainArgs
    from expunge.training.loop import plan_samples, train

    if wanted.threads:
        torch.set_num_threads(wanted.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder, tokenizer_folder = prepare(Path(scratch) / "stories", wanted.n)
        tokenizer = load_tokenizer(str(tokenizer_folder), TokenizerArgs())
        rows = TokenDocuments(folder, "train", max_seq_len=wanted.seq, rows="bos_chunks")
        args = TrainArgs(
            learning_rate=5e-4, max_steps=wanted.steps, per_device_train_batch_size=wanted.batch,
            gradient_accumulation_steps=1, lr_scheduler_type="cosine", warmup_steps=2, weight_decay=0.1,
            adam_beta2=0.95, logits_chunk_size=0, checkpoint=None, logging_steps=LOGGED,
        )  # fmt: skip
        finetune = objective("finetune")
        samples = plan_samples(finetune, {"retain": rows}, args)
        ids = torch.tensor([rows[s.numbers("retain")[0]].ids for s in samples])
        batches = ids.split(wanted.batch)

        def model() -> Any:
            made = build_llama(wanted.preset, tokenizer, vocab_size=len(tokenizer), seed=0)
            if torch.cuda.is_available():
                made.to("cuda")
            return made

        if torch.cuda.is_available():
            batches = [b.to("cuda") for b in batches]
        bare(model(), batches[:3], args)  # warm up
        wall = {"bare": math.inf, "ours": math.inf}
        cpu, losses, whole, wait = dict(wall), dict(wall), math.inf, math.inf
        for k in range(wanted.rounds):
            for way in ("bare", "ours") if k % 2 == 0 else ("ours", "bare"):
                fresh = model()
                if way == "bare":
                    took, losses[way] = bare(fresh, batches, args)
                else:
                    start = time.perf_counter(), time.process_time()
                    done = train(fresh, finetune, {"retain": rows}, args, pad_id=tokenizer.pad_token_id)
                    now = time.perf_counter(), time.process_time()
                    whole = min(whole, now[0] - start[0])
                    took = done.speed["train_s"], now[1] - start[1]  # CPU: the set-up of the run is in it
                    wait, tokens = min(wait, done.speed["wait_share"]), done.speed["tokens"]
                    losses[way] = done.history[-1]["loss"]
                wall[way], cpu[way] = min(wall[way], took[0]), min(cpu[way], took[1])
                print(f"round {k + 1} {way:5} {took[0]:7.2f} s, CPU {took[1]:7.2f} s", flush=True)
    size = sum(p.numel() for p in fresh.parameters()) / 1e6
    threads = torch.get_num_threads()
    print(f"\n{wanted.preset}: {size:.1f}M parameters, {wanted.steps} steps of {wanted.batch} x {wanted.seq} tokens")
    print(f"{threads} threads, best of {wanted.rounds} rounds\n")
    for way in wall:
        print(f"{way:5} {tokens / wall[way]:10.0f} tokens/s, {tokens / cpu[way]:10.0f} tokens per CPU second")
    print(f"ours / bare, tokens/s:     {wall['bare'] / wall['ours']:.3f} (wanted: 0.95 or more)")
    print(f"ours / bare, by CPU time:  {cpu['bare'] / cpu['ours']:.3f} (with the set-up of our run)")
    print(f"ours with set-up, seconds: {whole:.2f} against {wall['ours']:.2f} of steps")
    print(f"wait for data:             {100 * wait:.2f} % of the time (wanted: 2 or less)")
    print(f"mean of the last {LOGGED} losses:  {losses['bare']:.6f} and {losses['ours']:.6f}")


if __name__ == "__main__":
    main()
