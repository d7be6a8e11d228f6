"""Where the faults happen: on servers that really break."""

from tests.services.session.homes import postgres_home, postgres_template

__all__ = ["postgres_home", "postgres_template"]
