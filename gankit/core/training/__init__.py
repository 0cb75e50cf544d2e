"""The training loop, a step, the run on disk, stages, forecasts of memory."""
