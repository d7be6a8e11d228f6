"""Formats of data files, and their conversion to the rows of the stages."""
