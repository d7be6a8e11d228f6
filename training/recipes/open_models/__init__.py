"""Recipes for open models on 1, 8 and 64 GPUs.

`thumbwheel train plan` estimates memory and time of each recipe.
"""
