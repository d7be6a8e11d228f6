"""Where the faults happen: on servers that really break."""

from tests.services.session.conftest import postgres, postgres_home, postgres_template, sqlite_home

__all__ = ["postgres", "postgres_home", "postgres_template", "sqlite_home"]
