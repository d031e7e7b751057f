"""One optimizer class per file, registered by `training.optimizers.optimizer`."""
