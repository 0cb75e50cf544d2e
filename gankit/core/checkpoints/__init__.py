"""Atomic writes of folders; listing and pruning of a run's checkpoints."""
