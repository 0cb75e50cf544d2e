"""The part that every model shares: plugins, recipes, data, training, checkpoints. Never imports `gankit.plugins`."""
