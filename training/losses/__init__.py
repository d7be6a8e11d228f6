"""Losses and log-probabilities that several stages use, as pure functions."""
