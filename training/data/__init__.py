"""Data preparation from plain files and feedback logs to token ids and tensors."""
