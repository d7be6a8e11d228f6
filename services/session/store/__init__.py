"""Storage of conversations: SQLite or Postgres, and migrations."""
