"""Functions that return a complete config of a run."""
