"""Rows from a rule and a seed: tasks that a small model learns, to study the effects of fine-tuning on them."""
