"""A loss of your own: a function of what the model says, with declared requirements."""

import torch
from tiny import full_model

import expunge


@expunge.unlearning_loss(forget="logps", forget_ref="logps")
def squared_margin(inputs: expunge.LossInputs) -> torch.Tensor:
    """Push each forget token 2 nats below its log-probability before unlearning, and no further."""
    return (inputs.forget.logps_N - inputs.forget_ref.logps_N + 2).relu().square().mean()


benchmark, tokenizer, model = full_model()
forget, retain = benchmark.sets["forget"], benchmark.sets["retain"]
result = expunge.unlearn(
    model, forget, retain=retain, tokenizer=tokenizer, method=squared_margin, learning_rate=1e-3, num_train_epochs=12,
    gradient_accumulation_steps=1, logging_steps=2,
)  # fmt: skip
print(result)
print(result.to_pandas()[["step", "loss", "forget", "retain"]])
