"""Audits in a study: their jobs, what these do, and what they leave."""
