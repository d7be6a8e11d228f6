"""Outbox of finished turns and its delivery to feedback."""
