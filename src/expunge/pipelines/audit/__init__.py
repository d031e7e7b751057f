"""`expunge audit`: the audits of one given model, with or without controls, and their report."""
