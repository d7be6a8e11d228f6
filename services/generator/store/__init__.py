"""Storage of the rollout: a file or Postgres, and its migrations."""
