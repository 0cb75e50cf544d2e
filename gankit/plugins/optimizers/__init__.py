"""Optimizer plugins: Adam, AdamW, and as an experiment Muon."""
