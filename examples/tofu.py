"""TOFU: the target model forgets forget10 and is compared with the retain model.

`python examples/tofu.py locuslab/TOFU` reads the hub. Without an argument an invented folder of the same layout is
used.
"""

import sys
import tempfile
from pathlib import Path

from tiny import tofu_folder, tokenizer_for, trained

import expunge

with tempfile.TemporaryDirectory() as scratch:
    root = sys.argv[1] if len(sys.argv) > 1 else str(tofu_folder(Path(scratch) / "tofu"))
    tofu = expunge.load_benchmark("tofu", root=root, forget_split="forget10")

tokenizer = tokenizer_for(tofu.sets["full"])
full, retain = (trained(tofu.sets[name], tokenizer) for name in ("full", "retain"))
short = {"max_new_tokens": 16}
retain_results = expunge.evaluate(retain, tokenizer, benchmark=tofu, generation=short)
unlearned = expunge.unlearn(
    full, tofu.sets["forget"], retain=tofu.sets["retain"], tokenizer=tokenizer, method="GradDiff", learning_rate=2e-3,
    num_train_epochs=10, gradient_accumulation_steps=1,
).model  # fmt: skip
result = expunge.evaluate(unlearned, tokenizer, benchmark=tofu, retain_results=retain_results, generation=short)
print(result.to_pandas()[["value", "ci_low", "ci_high"]])
# The model utility is 0 here: the invented model knows no real authors and no world facts.
print(f"forget quality {result['forget_quality']:.3g}, model utility {result['model_utility']:.3g}")
