"""The job engine: jobs as data, the store of their results, and the runners. It knows nothing of models."""
