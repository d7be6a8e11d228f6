"""Embedded system for all attacks, shared with the journeys."""

import itertools
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
    system = attacked_by_new_users(
        request.getfixturevalue(getattr(request, "param", "stack")), "default", "umbrella"
    )
    # The first turns load what later turns keep in memory.
    system.check_answered()
    return system


def attacked_by_new_users(stack: Stack, tenant: str, other_tenant: str) -> Attacked:
    def client(user: str, tenant: str = tenant) -> Client:
        return Client(stack.http, stack.make_keys(user, tenant=tenant, scopes=SCOPES)[0])

    return Attacked(
        stack,
        attacker=client("attacker"),
        bystander=client("bystander"),
        colleague=client("colleague"),
        namesake=client("attacker", other_tenant),
    )


NUMBERS = itertools.count(1)


@pytest.fixture
def attacked(attacked_system: Attacked) -> Iterator[Attacked]:
    """Return the system with new users, and check after the attack that it did no harm.

    The quotas of the new users are unused.
    """
    number = next(NUMBERS)
    system = attacked_by_new_users(attacked_system.stack, f"acme-{number}", f"umbrella-{number}")
    system.record()
    yield system
    system.check()
