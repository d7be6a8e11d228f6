"""Recipes: functions that return the complete configuration of a run."""
