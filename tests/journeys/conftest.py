"""A running system and a span receiver, shared by all journeys because a start takes seconds."""

import json
from collections.abc import Iterator

import pytest

from tests.journeys.otlp import Receiver, receiving
from tests.journeys.prometheus import SERVICES
from tests.journeys.stack import Stack, running_stack

# Users of this tenant have a request limit per minute. All others are unlimited.
FRUGAL_TENANT, FRUGAL_REQUESTS = "frugal", 2
EXPORT_EVERY_MS = "200"


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """Receive the spans of `stack`."""
    with receiving() as started:
        yield started


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Stack]:
    """Run the shared system. Tests must restore services they stop."""
    overrides = {FRUGAL_TENANT: {"user_requests_per_minute": FRUGAL_REQUESTS}}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TW_GATEWAY_QUOTA_OVERRIDES", json.dumps(overrides))
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", EXPORT_EVERY_MS)
        for service in SERVICES:
            environment.setenv(
                f"TW_{service.upper()}_OTLP_ENDPOINT", f"http://127.0.0.1:{receiver.port}"
            )
        with running_stack(tmp_path_factory.mktemp("state")) as running:
            environment.undo()
            yield running
