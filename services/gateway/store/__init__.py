"""Database of API keys and its migrations."""
