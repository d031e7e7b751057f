"""A sweep of settings: the space, the selection rows, and its two studies."""
