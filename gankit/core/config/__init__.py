"""Recipes, plugin options, the plugin registry, schedules, stages, compatibility."""
