"""Sampling pipelines, engines, traced graphs, bulk sampling and export."""
