"""Inspect a model layer by layer: drift, CKA, lens and probe, next to the model before unlearning."""

import copy

from tiny import full_model, retain_model

import expunge

benchmark, tokenizer, full = full_model()
retain = retain_model(benchmark, tokenizer)
unlearned = expunge.unlearn(
    copy.deepcopy(full), benchmark.sets["forget"], retain=benchmark.sets["retain"], tokenizer=tokenizer,
    method="RMU", module_regex="model.layers.1", learning_rate=1e-3, num_train_epochs=10, gradient_accumulation_steps=1,
).model  # fmt: skip
report = expunge.inspect(
    unlearned,
    tokenizer,
    forget=benchmark.sets["forget"],
    retain=benchmark.sets["retain"],
    reference=full,
    controls={"retain": retain},
)
print(report)
print(report.details("drift").head())
