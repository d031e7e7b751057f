"""Inspect a model layer by layer: drift, CKA, lens and probe, next to the model before unlearning."""

import copy

import expunge

world = expunge.demo_world()
tokenizer = world.tokenizer
full, retain = world.target_model(), world.retain_model()
unlearned = expunge.unlearn(
    copy.deepcopy(full), world.forget, retain=world.retain, tokenizer=tokenizer,
    method="RMU", module_regex="model.layers.1", learning_rate=1e-3, num_train_epochs=10, gradient_accumulation_steps=1,
).model  # fmt: skip
report = expunge.inspect(
    unlearned,
    tokenizer,
    forget=world.forget,
    retain=world.retain,
    reference=full,
    controls={"retain": retain},
)
print(report)
print(report.details("drift").head())
