"""Thumbwheel's training library: stages from feedback to a better model."""
