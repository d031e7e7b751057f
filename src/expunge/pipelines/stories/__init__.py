"""The stories protocol as a study: its settings, its graph of jobs, what the jobs do, and its report."""
