"""Database fixtures of the session service."""

from tests.services.session.homes import home, postgres_home, postgres_template, sqlite_home

__all__ = ["home", "postgres_home", "postgres_template", "sqlite_home"]
