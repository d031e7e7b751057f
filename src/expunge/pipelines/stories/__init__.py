"""The stories protocol as a study: settings, graph of jobs, functions of the jobs, and report."""
