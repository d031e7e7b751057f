"""Audits: can the forgotten answers be brought back? The retain and the target model are the controls."""

import copy

import expunge

world = expunge.demo_world()
tokenizer = world.tokenizer
full, retain = world.target_model(), world.retain_model()
forget = world.benchmark.sets["forget_eval"]
unlearned = expunge.unlearn(
    copy.deepcopy(full), world.forget, retain=world.retain, tokenizer=tokenizer, method="NPO",
    learning_rate=1e-3, num_train_epochs=10, gradient_accumulation_steps=1,
).model  # fmt: skip

report = expunge.audit(
    unlearned,
    tokenizer,
    ["quantize", {"name": "relearn", "rows": 2, "steps": [0, 1, 2, 4], "ways": ["same_rows"]}, "exposure", "probe"],
    forget=forget,
    retain=world.retain,
    holdout=world.holdout,
    controls={"retain": retain, "full": full},
    learning_rate=1e-3,
)
print(report)
print(report.to_pandas()[["audit", "finding", "position", "verdict"]].to_string(index=False))
