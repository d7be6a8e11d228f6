"""Feedback table: Parquet objects, the ledger that commits them, and consistency checks."""
