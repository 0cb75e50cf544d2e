"""The training loop, the training step, run folders, stages, and estimates of memory and FLOPs."""
