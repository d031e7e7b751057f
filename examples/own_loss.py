"""A loss of your own: a function of what the model says, with declared requirements."""

import torch

import expunge


@expunge.unlearning_loss(forget="logps", forget_ref="logps")
def squared_margin(inputs: expunge.LossInputs) -> torch.Tensor:
    """Push each forget token 2 nats below its log-probability before unlearning, and no further."""
    return (inputs.forget.logps_N - inputs.forget_ref.logps_N + 2).relu().square().mean()


world = expunge.demo_world()
model, tokenizer = world.target_model(), world.tokenizer
forget, retain = world.forget, world.retain
result = expunge.unlearn(
    model, forget, retain=retain, tokenizer=tokenizer, method=squared_margin, learning_rate=1e-3, num_train_epochs=12,
    gradient_accumulation_steps=1, logging_steps=2,
)  # fmt: skip
print(result)
print(result.to_pandas()[["step", "loss", "forget", "retain"]])
