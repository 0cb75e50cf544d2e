"""The contracts that the core itself calls: labels, conditions, networks, training, data."""
