"""Where the faults happen: on servers that really break."""

from tests.services.generator.conftest import database, empty_database
from tests.services.session.homes import postgres_home, postgres_template

__all__ = ["database", "empty_database", "postgres_home", "postgres_template"]
