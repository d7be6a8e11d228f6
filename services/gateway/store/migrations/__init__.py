"""Migrations of the gateway's database: one file per change, applied in order, never edited."""
