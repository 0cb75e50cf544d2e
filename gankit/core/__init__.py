"""The core of training: configuration, data, networks, operators, the training loop, checkpoints."""
