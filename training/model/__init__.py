"""The decoder-only transformer, its files on disk, and LoRA."""
