"""Two methods over three seeds, paired example by example."""

import copy

import pandas as pd

import expunge

world = expunge.demo_world()
full, tokenizer = world.target_model(), world.tokenizer
forget, retain = world.forget, world.retain
metrics = ["forget_Q_A_Prob", "retain_Q_A_Prob"]
shared = dict(learning_rate=1e-3, num_train_epochs=3, gradient_accumulation_steps=1)
results = {}
for method in (expunge.GradDiffConfig, expunge.NPOConfig):
    for seed in range(3):
        model = copy.deepcopy(full)
        expunge.unlearn(model, forget, retain=retain, tokenizer=tokenizer, args=method(seed=seed, **shared))
        result = expunge.evaluate(model, tokenizer, forget=forget, retain=retain, metrics=metrics)
        results[method.METHOD, seed] = result

table = pd.DataFrame([{"method": m, "seed": s, **r} for (m, s), r in results.items()])
print(table.groupby("method")[metrics].agg(["mean", "std"]))
print(expunge.compare(results["GradDiff", 0], results["NPO", 0]))
