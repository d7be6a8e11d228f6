"""The homes of the session service; those in Postgres on the worker that has the servers."""

import pytest

from tests.services.session.homes import home, postgres_home, postgres_template, sqlite_home

__all__ = ["home", "postgres_home", "postgres_template", "sqlite_home"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`tests/conftest.py` sees the servers that a test names, and `home` names none."""
    for item in items:
        if (
            isinstance(item, pytest.Function)
            and "home" in item.fixturenames
            and item.callspec.params["home"] == "postgres"
        ):
            item.add_marker(pytest.mark.xdist_group("servers"))
