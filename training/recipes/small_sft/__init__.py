"""Training of the small model's committed adapter: `python -m training.recipes.small_sft`."""
