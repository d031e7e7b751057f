"""A judge: rules that say whether a generated text contains the true answer. A chat API works the same way."""

from tiny import full_model, retain_model

import expunge

benchmark, tokenizer, full = full_model()
retain = retain_model(benchmark, tokenizer)
rules = {"rules": [{"contains_reference": True}], "name": "contains the true answer"}
for name, model in (("full", full), ("retain", retain)):
    result = expunge.evaluate(
        model, tokenizer, forget=benchmark.sets["forget"], metrics=["forget_Q_A_ROUGE"],
        generation={"max_new_tokens": 32},
    )  # fmt: skip
    verdict = expunge.judge(rules, result)
    print(f"{name}: {verdict.mean:.2f} [{verdict.ci_low:.2f}, {verdict.ci_high:.2f}] over {verdict.n} answers")
