"""Supervision of child processes for the embedded run and for the real servers."""
