"""Metrics of a model against a data set, after and during training."""
