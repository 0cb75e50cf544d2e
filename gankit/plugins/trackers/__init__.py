"""Tracker plugins: training events for external viewers (TensorBoard)."""
