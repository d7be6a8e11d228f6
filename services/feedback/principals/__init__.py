"""Data of principals: consent, erasure, and the keys that seal their texts."""
