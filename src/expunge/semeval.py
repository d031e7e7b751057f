"""The function call that SemEval-2025 Task 4 requires: `from expunge.semeval import unlearn`."""

from expunge.cli.commands.semeval import unlearn

__all__ = ["unlearn"]
