"""The state machine of the rollout: sticky users, growing shares, leases, promotion, rollback."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chassis.errors import FailedPreconditionError
from services.contracts.chat import Arm
from services.generator.rollout.rollout import (
    Candidate,
    ChangeKind,
    Deployment,
    Rollout,
    user_fraction,
)

STABLE = Rollout(stable=Deployment("v1", "/models/v1"))
USERS = [f"tenant/{number}" for number in range(5000)]
shares = st.floats(0.001, 0.5)


def with_candidate(share: float = 0.5, lease_end_us: int = 100, version: str = "v2") -> Rollout:
    return STABLE.propose(Candidate(version, f"/models/{version}", share, lease_end_us)).start(
        version, lease_end_us, 0
    )


def users_of_candidate(rollout: Rollout, now_us: int = 0, ready: bool = True) -> set[str]:
    found = set()
    for user in USERS:
        assignment = rollout.assign(user, now_us, candidate_ready=ready)
        assert assignment is not None
        if assignment.arm is Arm.CANDIDATE:
            found.add(user)
    return found


@given(user=st.text(max_size=300), share=shares)
def test_a_user_keeps_the_version_while_the_rollout_is_unchanged(user: str, share: float) -> None:
    rollout = with_candidate(share)
    first = rollout.assign(user, 0, candidate_ready=True)
    assert first == rollout.assign(user, 99, candidate_ready=True)
    assert first is not None
    assert first.probability == (share if first.arm is Arm.CANDIDATE else 1 - share)
    assert first.version == ("v2" if first.arm is Arm.CANDIDATE else "v1")


@settings(max_examples=20)
@given(shares, shares)
def test_a_growing_share_keeps_its_users(one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert users_of_candidate(with_candidate(small)) <= users_of_candidate(with_candidate(large))


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_the_share_of_users_matches_the_requested_share(share: float) -> None:
    assert abs(len(users_of_candidate(with_candidate(share))) / len(USERS) - share) < 0.025


def test_another_candidate_selects_other_users() -> None:
    first, second = (
        users_of_candidate(with_candidate(0.5)),
        users_of_candidate(with_candidate(0.5, version="v3")),
    )
    assert abs(len(first & second) / len(USERS) - 0.25) < 0.03


def test_the_user_fraction_never_changes() -> None:
    assert user_fraction("v2", "acme/ada") == 0.9104750957141547


def test_a_candidate_has_users_only_while_live_ready_and_leased() -> None:
    proposed = STABLE.propose(Candidate("v2", "/models/v2", 0.5, 100))
    assert not users_of_candidate(proposed)
    live = proposed.start("v2", 100, 0)
    assert users_of_candidate(live)
    assert not users_of_candidate(live, ready=False)
    assert users_of_candidate(live, now_us=99)
    assert not users_of_candidate(live, now_us=100)
    assignment = live.assign("acme/ada", 100, candidate_ready=True)
    assert assignment is not None
    assert assignment.probability == 1.0


def test_an_expired_lease_removes_the_candidate_and_a_renewed_one_keeps_it() -> None:
    live = with_candidate(lease_end_us=100)
    assert live.expire(99) == live
    assert live.renew("v2", 200).expire(150).candidate is not None
    expired = live.expire(100)
    assert (expired.candidate, expired.retired) == (None, ("v2",))
    assert expired.history[0].kind is ChangeKind.LEASE_EXPIRED


def test_promotion_makes_the_candidate_stable_once_and_retires_the_old_version() -> None:
    promoted = with_candidate().promote("v2", "wins", 5)
    assert promoted.stable == Deployment("v2", "/models/v2")
    assert (promoted.candidate, promoted.retired) == (None, ("v1",))
    assert [change.kind for change in promoted.history] == [ChangeKind.PROMOTED, ChangeKind.STARTED]
    assert promoted.history[0].reason == "wins"
    assert promoted.promote("v2", "again", 6) == promoted


def test_rollback_removes_the_candidate_once() -> None:
    rolled = with_candidate().roll_back("v2", "worse", 5)
    assert (rolled.candidate, rolled.retired, rolled.stable) == (None, ("v2",), STABLE.stable)
    assert rolled.history[0].kind is ChangeKind.ROLLED_BACK
    assert rolled.roll_back("v2", "again", 6) == rolled
    assert STABLE.roll_back("never heard of", "", 6) == STABLE


def test_a_candidate_may_change_its_share_without_losing_traffic() -> None:
    grown = with_candidate(0.1).propose(Candidate("v2", "/models/v2", 0.3, 500))
    assert grown.candidate == Candidate("v2", "/models/v2", 0.3, 500, live=True)


def test_a_retired_version_that_is_proposed_again_is_not_retired() -> None:
    again = with_candidate().roll_back("v2", "", 5).propose(Candidate("v2", "/models/v2", 0.5, 100))
    assert again.retired == ()


def test_unloaded_versions_are_removed_from_retired() -> None:
    rollout = replace(STABLE, retired=("v8", "v9"))
    assert rollout.forget_retired(frozenset({"v1", "v8"})).retired == ("v9",)


def test_stable_and_candidate_are_never_retired() -> None:
    rollout = replace(with_candidate(), retired=("v9",))
    assert rollout.retire(frozenset({"v1", "v2", "v7", "v9"})).retired == ("v9", "v7")


def test_history_keeps_the_last_fifty_changes() -> None:
    rollout = STABLE
    for number in range(60):
        rollout = rollout.propose(Candidate(f"c{number}", "/c", 0.1, 100)).roll_back(
            f"c{number}", "", number
        )
    assert len(rollout.history) == 50
    assert rollout.history[0].version == "c59"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("propose without stable", "NO_STABLE_VERSION"),
        ("propose the stable version", "ALREADY_STABLE"),
        ("propose another candidate", "ANOTHER_CANDIDATE"),
        ("propose the same candidate from elsewhere", "ANOTHER_CANDIDATE"),
        ("start what is not the candidate", "NOT_THE_CANDIDATE"),
        ("renew what is not the candidate", "NOT_THE_CANDIDATE"),
        ("promote what is not the candidate", "NOT_THE_CANDIDATE"),
        ("promote what never answered", "CANDIDATE_NOT_READY"),
        ("roll back stable", "ALREADY_STABLE"),
    ],
)
def test_invalid_transitions_name_the_reason(name: str, reason: str) -> None:
    fresh = Candidate("v3", "/models/v3", 0.5, 100)
    actions = {
        "propose without stable": lambda: Rollout().propose(fresh),
        "propose the stable version": lambda: STABLE.propose(replace(fresh, version="v1")),
        "propose another candidate": lambda: with_candidate().propose(fresh),
        "propose the same candidate from elsewhere": lambda: with_candidate().propose(
            replace(fresh, version="v2")
        ),
        "start what is not the candidate": lambda: STABLE.start("v2", 100, 0),
        "renew what is not the candidate": lambda: with_candidate().renew("v1", 100),
        "promote what is not the candidate": lambda: with_candidate().promote("v3", "", 0),
        "promote what never answered": lambda: STABLE.propose(fresh).promote("v3", "", 0),
        "roll back stable": lambda: with_candidate().roll_back("v1", "", 0),
    }
    with pytest.raises(FailedPreconditionError) as caught:
        actions[name]()
    assert caught.value.reason == reason


def test_without_a_stable_version_there_is_no_assignment() -> None:
    assert Rollout().assign("acme/ada", 0, candidate_ready=True) is None
