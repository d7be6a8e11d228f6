"""Tokenizers: byte pairs for models, words and characters for comparison, and an HTML page."""
