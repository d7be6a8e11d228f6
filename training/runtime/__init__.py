"""Foundations of every stage: context, device, ranks, value ranges and training state."""
