"""A judge: rules that say whether a generated text contains the true answer. A chat API works the same way."""

import expunge

world = expunge.demo_world()
full, retain = world.target_model(), world.retain_model()
rules = {"rules": [{"contains_reference": True}], "name": "contains the true answer"}
for name, model in (("full", full), ("retain", retain)):
    result = expunge.evaluate(
        model, world.tokenizer, forget=world.forget, metrics=["forget_Q_A_ROUGE"],
        generation={"max_new_tokens": 32},
    )  # fmt: skip
    verdict = expunge.judge(rules, result)
    print(f"{name}: {verdict.mean:.2f} [{verdict.ci_low:.2f}, {verdict.ci_high:.2f}] over {verdict.n} answers")
