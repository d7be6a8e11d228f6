"""Versions of models from outside, and versions in the object store."""
