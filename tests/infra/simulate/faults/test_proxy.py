"""Injection of a fault depends only on count, share and seed."""

import pytest

from infra.simulate.faults.proxy import Chance
from tests.support.errors import refused
from training.errors import ConfigError


def struck(chance: Chance, occasions: int) -> list[bool]:
    return [chance.strikes() for _ in range(occasions)]


def test_fault_without_limits_always_strikes() -> None:
    assert all(struck(Chance(), 100))


def test_limited_fault_strikes_at_most_n_times() -> None:
    assert struck(Chance(times=2), 5) == [True, True, False, False, False]


def test_equal_seeds_strike_the_same_share() -> None:
    hits = struck(Chance(0.1, seed=7), 10_000)
    assert 800 < sum(hits) < 1_200
    assert hits == struck(Chance(0.1, seed=7), 10_000)
    assert hits != struck(Chance(0.1, seed=8), 10_000)


def test_share_with_limit_stops_at_the_limit() -> None:
    assert sum(struck(Chance(0.5, times=3), 1_000)) == 3


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_share_outside_0_to_1_is_rejected(share: float) -> None:
    with refused(ConfigError, field="share", reason="OUT_OF_RANGE", limit="0 to 1"):
        Chance(share)
