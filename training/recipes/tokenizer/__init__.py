"""Command `python -m training tokenizer`: training and comparison of tokenizers."""
