"""Small objects become larger ones, and rows that must go are left out."""
