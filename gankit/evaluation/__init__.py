"""Metrics of a model against a data set, after training and during it."""
