"""One running system for all journeys of a session: starting it is what costs."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.stack import Stack, running_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running_stack(tmp_path_factory.mktemp("state")) as running:
        yield running


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    """A system for a test that breaks things."""
    with running_stack(tmp_path / "state") as running:
        yield running
