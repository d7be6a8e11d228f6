"""Command `thumbwheel train tokenizer`: training and comparison of tokenizers."""
