"""SemEval-2025 Task 4 as one call: `from expunge.semeval import unlearn`."""

from expunge.cli.semeval import unlearn

__all__ = ["unlearn"]
