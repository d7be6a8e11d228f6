"""Filters of the data path: lists of URLs, rules for the quality of texts, harmful content.

The rules and constants are those of Gopher, C4 and FineWeb; each module names its source.
"""
