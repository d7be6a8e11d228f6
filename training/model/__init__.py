"""Decoder models, their configuration files, checkpoints and adapters."""
