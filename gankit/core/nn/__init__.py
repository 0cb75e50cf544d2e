"""Layers and size arithmetic that several networks share."""
