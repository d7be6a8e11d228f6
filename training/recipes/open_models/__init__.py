"""Recipes for open models of sizes that GPUs are for: 1, 8 and 64 of them. `python -m training
plan` says what each takes.
"""
