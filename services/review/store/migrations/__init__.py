"""Migrations of the review database: one file per change, applied in order, never edited."""
