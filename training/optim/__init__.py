"""Optimizers, schedules and gradients, small."""
