"""How the small model's committed adapter is made: `python -m training.recipes.small_sft`."""
