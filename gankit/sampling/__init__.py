"""Pipelines, engines, traced graphs, drawing many pictures, export."""
