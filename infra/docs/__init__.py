"""Documentation generated from code."""
