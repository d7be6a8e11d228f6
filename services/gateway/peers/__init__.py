"""Clients of the other services, with domain types as arguments and results."""
