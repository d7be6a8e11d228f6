"""Readers for crawls, archives and tables; each record of an input gives exactly one item."""
