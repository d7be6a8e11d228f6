"""One running system for all journeys of a session: starting it is what costs."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.journeys.stack import Stack, running_stack

# Users of this tenant may ask so much in a minute; all others as much as they like.
FRUGAL_TENANT, FRUGAL_REQUESTS = "frugal", 2


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    overrides = {FRUGAL_TENANT: {"user_requests_per_minute": FRUGAL_REQUESTS}}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TW_GATEWAY_QUOTA_OVERRIDES", json.dumps(overrides))
        with running_stack(tmp_path_factory.mktemp("state")) as running:
            environment.undo()
            yield running


@pytest.fixture
def own_stack(tmp_path: Path) -> Iterator[Stack]:
    """A system for a test that breaks things."""
    with running_stack(tmp_path / "state") as running:
        yield running
