"""Where the faults happen."""

from tests.services.generator.conftest import database, empty_database

__all__ = ["database", "empty_database"]
