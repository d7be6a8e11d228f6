"""Between text and token ids: the tokenizer, incremental text, stop strings, the chat template."""
