"""Recipes for open models on 1, 8 and 64 GPUs.

`python -m training plan` estimates memory and time of each recipe.
"""
