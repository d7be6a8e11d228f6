"""Projections of the ledger: current thumbs, comments, corrections, and experiments."""
