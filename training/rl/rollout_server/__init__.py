"""Rollouts by a model server: weights by version, samples, and checks of both."""
