"""Audits in a study: their jobs, the work of the jobs, and their results."""
