"""Text and token ids: tokenizer, incremental text, stop strings, chat template."""
