"""Audits: can the forgotten answers be brought back? The retain and the full model are the controls."""

import copy

from tiny import full_model, retain_model

import expunge

benchmark, tokenizer, full = full_model()
retain = retain_model(benchmark, tokenizer)
forget = benchmark.sets["forget_eval"]
unlearned = expunge.unlearn(
    copy.deepcopy(full), benchmark.sets["forget"], retain=benchmark.sets["retain"], tokenizer=tokenizer, method="NPO",
    learning_rate=1e-3, num_train_epochs=10, gradient_accumulation_steps=1,
).model  # fmt: skip

report = expunge.audit(
    unlearned,
    tokenizer,
    ["quantize", {"name": "relearn", "rows": 2, "steps": [0, 1, 2, 4], "ways": ["same_rows"]}, "exposure", "probe"],
    forget=forget,
    retain=benchmark.sets["retain"],
    holdout=benchmark.sets["holdout"],
    controls={"retain": retain, "full": full},
    learning_rate=1e-3,
)
print(report)
print(report.to_pandas()[["audit", "finding", "position", "verdict"]].to_string(index=False))
