"""Rollout of versions: stable version, candidate, promotion and rollback."""
