"""LoRA: peft adapters are trained in place of the weights, by any method."""

from peft import LoraConfig

import expunge

world = expunge.demo_world()
model, tokenizer = world.target_model(), world.tokenizer
adapters = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
trainer = expunge.UnlearnTrainer(
    model,
    expunge.NPOConfig(alpha=5, learning_rate=5e-3, num_train_epochs=60, gradient_accumulation_steps=1),
    forget_dataset=world.forget,
    retain_dataset=world.retain,
    processing_class=tokenizer,
    peft_config=adapters,
)
trainer.model.print_trainable_parameters()
trainer.train()
result = expunge.evaluate(
    trainer.model, tokenizer, forget=world.forget, retain=world.retain, metrics=["forget_Q_A_Prob", "retain_Q_A_Prob"]
)
print(result)
merged = trainer.model.merge_and_unload()  # a plain model again
print(type(merged).__name__)
