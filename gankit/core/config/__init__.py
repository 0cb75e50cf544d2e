"""Recipes, plugin options, the plugin registry, schedules, stages and compatibility checks."""
