"""Database of feedback: tables, sessions and migrations."""
