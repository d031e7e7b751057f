"""`expunge erase`: the request, the search, the audits, the findings, and the run of all steps."""
