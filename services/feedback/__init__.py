"""Feedback service: durable thumbs, corrections and turns, published as Parquet.

Events are durable when acknowledged, counted exactly once, and retractable.
"""
