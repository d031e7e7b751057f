"""Meta-evaluation of metrics: its settings, its formulas, and its jobs."""
