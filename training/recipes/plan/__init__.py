"""Command `python -m training plan`: memory and time of a recipe."""
