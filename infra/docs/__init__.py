"""Documentation that is written from the code."""
