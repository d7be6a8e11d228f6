"""Benchmarks of a model behind an OpenAI-compatible endpoint."""
