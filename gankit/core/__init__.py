"""What a training run needs: configuration, data, networks, operators, training, checkpoints."""
