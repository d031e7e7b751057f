"""Every command of the pages runs on small models, or its plan does; command_rules.py has the exceptions."""

from __future__ import annotations

import shlex
import signal
from collections import Counter
from pathlib import Path

import pytest
from command_rules import EPOCH, RULES, SHORT, STEP, TINY, TRIES, planned, prepared, rule_of
from page_commands import PAGES, ROOT, commands, tries
from run_commands import call, run_apart

SIZES = {word.partition("=")[0] for text in (TINY, STEP, EPOCH, SHORT) for word in text.split()} | {
    *("--n", "--shards", "--workers", "--audits", "--vocab_size", "data.args.documents", "trainer.args.evaluate.steps"),
    *(
        "--port",
        "data.args.train_rows",
        "data.args.eval_rows",
        "train.max_steps",
        "unlearn.max_steps",
        "audits",
        "methods",
        "launch.workers",
        "seeds.train",
    ),
    *("eval.metrics", "eval.sampling.max_new_tokens", "sweep.trials", "sweep.space", "stories.generate.n"),
    *("stories.delete_at", "stories.recover_at", "stories.shown_at", "stories.eval_rows", "stories.datasets"),
    *("stories.judge.prompts", "stories.judge.max_new_tokens", "stories.probe.rows", "stories.max_seq_len"),
    *("stories.learning_rates", "train.per_device_train_batch_size", "unlearn.per_device_train_batch_size"),
    *("train.gradient_accumulation_steps", "model.template_args.apply_chat_template"),
}
"""Words that the tests may add to a whole command: they make it smaller, and no command needs them."""


@pytest.mark.slow
def test_every_command_of_the_pages_runs(tmp_path: Path) -> None:
    outcomes, code, errors = run_apart(tmp_path / "reader", timeout_s=3000)
    assert [(o["page"], o["command"], o["fault"]) for o in outcomes if o["fault"]] == []
    assert code == 0, errors
    forms = Counter(o["form"] for o in outcomes if not o["page"].endswith(".py"))
    assert forms["run"] > 150 and forms["serve"] > 5
    others = [(o["page"], o["command"], o["reason"]) for o in outcomes if o["reason"]]
    print(*map(" | ".join, others), sep="\n")  # pytest -s shows the commands that do not run, and why
    assert sum(not page.endswith(".py") for page, _, _ in others) < 20 and forms["not run"] <= 1


def test_a_whole_command_gets_smaller_and_no_word_that_it_lacks() -> None:
    """So a command without a word that it needs fails, as it does for a reader."""
    for page in PAGES:
        for words, whole in commands(page.read_text(encoding="utf-8")):
            more = [word.partition("=")[0] for word in shlex.split(rule_of(words).more) if "=" in word or "--" in word]
            assert not whole or set(more) <= SIZES, (page.name, words)


def test_each_rule_has_a_command() -> None:
    words = [words for page in PAGES for words, _ in commands(page.read_text(encoding="utf-8"))]
    present = [shlex.join(command) for command in words]
    assert [start for start in RULES if not any(command.startswith(start) for command in present)] == []
    proposed = [shlex.join(words) for _, words in tries(ROOT / "src" / "expunge")]
    assert [start for start in TRIES if not any(command.startswith(start) for command in proposed)] == []


def test_a_command_that_does_not_run_has_a_reason() -> None:
    for start, rule in (RULES | TRIES).items():
        assert (rule.form in ("plan", "config", "help", "not run")) == bool(rule.reason), start


def test_the_first_page_of_a_server_is_read(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert call(["ui", str(tmp_path), "--port", "0"], serves=True)[0] == 0
        code, text = call(["ui", str(tmp_path / "none")], serves=True)
        assert code == 2 and "is no folder" in text
        code, text = call(["list", "audits"], serves=True)
        assert code == 1 and "the server returned no page" in text
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_longest_rule_counts() -> None:
    words = shlex.split("unlearn benchmark=mine trainer=NPO")
    assert rule_of(words) == RULES["unlearn"] and rule_of(["unlearned"]) == RULES["unlearn"]
    assert (
        prepared([*words, "eval.generation.max_new_tokens=9"], RULES["unlearn"]).count("trainer.args.max_steps=1") == 1
    )
    assert "eval.generation.max_new_tokens=4" not in prepared(
        [*words, "eval.generation.max_new_tokens=9"], RULES["unlearn"]
    )


def test_the_plan_of_a_command() -> None:
    assert planned(["run", "study=x"], "plan") == ["plan", "study=x"]
    assert planned(["run", "study=x"], "config") == ["config", "run", "study=x"]
    assert planned(["eval", "a=b"], "plan") == ["plan", "eval", "a=b"]
    assert planned(["plan", "study=x"], "plan") == ["plan", "study=x"]
    assert planned(["plan", "study=x"], "config") == ["config", "run", "study=x"]
    assert planned(["data", "stories", "..."], "help") == ["data", "stories", "--help"]
    assert planned(["erase", "--model", "m"], "plan") == ["erase", "--model", "m", "--dry-run"]
    with pytest.raises(ValueError, match="expunge ui has no plan"):
        planned(["ui"], "plan")
