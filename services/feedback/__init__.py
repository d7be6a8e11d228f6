"""Thumbs, corrections and turns: durable at the ack, counted once, retractable; published as
Parquet through a ledger.
"""
