"""Your own CSV file: one column says what is to be forgotten."""

from pathlib import Path

import pandas as pd
from tiny import tokenizer_for, trained

import expunge

table = pd.read_csv(Path(__file__).parent / "data" / "people.csv")
people = expunge.examples_from(table, "people")
forget, retain = (table[table.side == side].drop(columns="side") for side in ("forget", "retain"))

tokenizer = tokenizer_for(people)
model = trained(people, tokenizer, epochs=100)
before = expunge.evaluate(model, tokenizer, forget=forget, retain=retain, generation={"max_new_tokens": 24})
expunge.unlearn(
    model, forget, retain=retain, tokenizer=tokenizer, method="NPO", alpha=5, learning_rate=1e-3,
    num_train_epochs=60, gradient_accumulation_steps=1,
)  # fmt: skip
after = expunge.evaluate(model, tokenizer, forget=forget, retain=retain, generation={"max_new_tokens": 24})
print(expunge.compare(before, after, metrics=["forget_Q_A_Prob", "retain_Q_A_Prob"]))
print(after.generations[["prompt", "generation"]].head(2).to_string(index=False))
