"""A reward of your own for methods that sample texts: whole sentences of at most twenty words.

Try: expunge unlearn --plugin full_sentence.py benchmark=world model=llama-64k trainer=PURGE task_name=mine \
    'trainer.method_args.rewards=[no_answer,full_sentence]' 'trainer.method_args.reward_weights=[1,0.5]'
"""

from collections.abc import Sequence

from expunge.training.rewards import Rollout, reward


@reward("full_sentence")
def full_sentence(rollouts: Sequence[Rollout]) -> list[float]:
    """Return 1 for a text that the model ended by itself, with a full stop, after at most 20 words; else 0."""
    return [float(r.stopped and r.text.endswith(".") and len(r.text.split()) <= 20) for r in rollouts]
