"""Optimizers, learning-rate schedules, gradients and ranks."""
