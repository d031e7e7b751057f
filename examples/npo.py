"""NPO in ten lines: a model, what to forget, what to keep."""

import expunge

world = expunge.demo_world()
model, tokenizer = world.target_model(), world.tokenizer
forget = [{"question": row.question, "answer": row.answer} for row in world.forget]
retain = [{"question": row.question, "answer": row.answer} for row in world.retain]

args = expunge.NPOConfig(
    beta=0.1, alpha=5, learning_rate=1e-3, num_train_epochs=60, gradient_accumulation_steps=1,
    generation={"max_new_tokens": 16},
)  # fmt: skip
trainer = expunge.UnlearnTrainer(model, args, forget_dataset=forget, retain_dataset=retain, processing_class=tokenizer)
before = trainer.evaluation()
trainer.train()
after = trainer.evaluation()
print(expunge.compare(before, after, metrics=["forget_Q_A_Prob", "retain_Q_A_Prob"]))
