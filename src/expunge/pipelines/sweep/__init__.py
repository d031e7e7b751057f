"""A sweep of settings: the space, the rows it chooses by, and the two studies it comes to."""
