"""Embedded system for all attacks, shared with the journeys."""

from collections.abc import Iterator

import pytest

from tests.attacks.attacked import Attacked
from tests.journeys.client import Client
from tests.journeys.stack import Stack, running_stack

# The default scopes and that of reviewers, whose routes are attacked as well.
SCOPES = "chat,feedback,account,review"


@pytest.fixture(scope="session")
def stack_with_quotas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Return an embedded system as `make up` starts it."""
    with running_stack(tmp_path_factory.mktemp("state")) as running:
        yield running


@pytest.fixture(scope="session")
def attacked_system(request: pytest.FixtureRequest) -> Attacked:
    """Return the system with keys of an attacker and of three others.

    The parameter is the name of the fixture of the system, by default that without quotas.
    """
    stack: Stack = request.getfixturevalue(getattr(request, "param", "stack"))

    def client(user: str, tenant: str = "default") -> Client:
        return Client(stack.http, stack.make_keys(user, tenant=tenant, scopes=SCOPES)[0])

    system = Attacked(
        stack,
        attacker=client("attacker"),
        bystander=client("bystander"),
        colleague=client("colleague"),
        namesake=client("attacker", "umbrella"),
    )
    # The first turns load what later turns keep in memory.
    system.check_answered()
    return system


@pytest.fixture
def attacked(attacked_system: Attacked) -> Iterator[Attacked]:
    """Return the system, and check after the attack that it did no harm."""
    attacked_system.record()
    yield attacked_system
    attacked_system.check()
