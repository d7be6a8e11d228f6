"""Estimates before a run: memory per GPU, time per step, and errors for runs that do not fit."""
