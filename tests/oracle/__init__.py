"""Comparison of our losses with TRL on fixed batches: `make oracle`.

TRL is in separate environments and is not imported elsewhere.
"""
