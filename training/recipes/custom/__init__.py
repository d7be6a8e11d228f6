"""Command line for stages and recipes on user-provided files."""
