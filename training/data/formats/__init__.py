"""Formats of data files that people have, converted to the rows of the stages."""
