"""The rollout: sticky users, growing shares, leases, promotion, rollback."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.chassis.errors import FailedPreconditionError
from services.generator.rollout import Arm, Candidate, ChangeKind, Deployment, Rollout, position

STABLE = Rollout(stable=Deployment("v1", "/models/v1"))
USERS = [f"tenant/{number}" for number in range(5000)]
shares = st.floats(0.001, 0.5)


def on_trial(share: float = 0.5, lease_end_us: int = 100, version: str = "v2") -> Rollout:
    return STABLE.propose(Candidate(version, f"/models/{version}", share, lease_end_us)).begin(
        version, lease_end_us, 0
    )


def candidates_users(rollout: Rollout, now_us: int = 0, ready: bool = True) -> set[str]:
    found = set()
    for user in USERS:
        assignment = rollout.assign(user, now_us, candidate_ready=ready)
        assert assignment is not None
        if assignment.arm is Arm.CANDIDATE:
            found.add(user)
    return found


@given(user=st.text(max_size=300), share=shares)
def test_a_user_keeps_the_version_while_the_rollout_stands(user: str, share: float) -> None:
    rollout = on_trial(share)
    first = rollout.assign(user, 0, candidate_ready=True)
    assert first == rollout.assign(user, 99, candidate_ready=True)
    assert first is not None
    assert first.probability == (share if first.arm is Arm.CANDIDATE else 1 - share)
    assert first.version == ("v2" if first.arm is Arm.CANDIDATE else "v1")


@settings(max_examples=20)
@given(shares, shares)
def test_a_growing_share_keeps_those_who_are_in(one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert candidates_users(on_trial(small)) <= candidates_users(on_trial(large))


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_the_share_of_users_is_the_share_that_was_asked_for(share: float) -> None:
    assert abs(len(candidates_users(on_trial(share))) / len(USERS) - share) < 0.025


def test_another_candidate_draws_other_users() -> None:
    first, second = candidates_users(on_trial(0.5)), candidates_users(on_trial(0.5, version="v3"))
    assert abs(len(first & second) / len(USERS) - 0.25) < 0.03


def test_positions_are_fixed_for_ever() -> None:
    assert position("v2", "acme/ada") == 0.9104750957141547


def test_a_candidate_has_no_users_before_it_is_live_while_it_is_not_ready_and_after_its_lease() -> (
    None
):
    proposed = STABLE.propose(Candidate("v2", "/models/v2", 0.5, 100))
    assert not candidates_users(proposed)
    live = proposed.begin("v2", 100, 0)
    assert candidates_users(live)
    assert not candidates_users(live, ready=False)
    assert candidates_users(live, now_us=99)
    assert not candidates_users(live, now_us=100)
    assignment = live.assign("acme/ada", 100, candidate_ready=True)
    assert assignment is not None
    assert assignment.probability == 1.0


def test_an_expired_lease_takes_the_candidate_out_and_a_renewed_one_keeps_it() -> None:
    live = on_trial(lease_end_us=100)
    assert live.expire(99) == live
    assert live.renew("v2", 200).expire(150).candidate is not None
    expired = live.expire(100)
    assert (expired.candidate, expired.retired) == (None, ("v2",))
    assert expired.history[0].kind is ChangeKind.LEASE_EXPIRED


def test_promotion_makes_the_candidate_stable_once_and_retires_the_old_one() -> None:
    promoted = on_trial().promote("v2", "wins", 5)
    assert promoted.stable == Deployment("v2", "/models/v2")
    assert (promoted.candidate, promoted.retired) == (None, ("v1",))
    assert [change.kind for change in promoted.history] == [ChangeKind.PROMOTED, ChangeKind.STARTED]
    assert promoted.history[0].reason == "wins"
    assert promoted.promote("v2", "again", 6) == promoted


def test_rollback_gives_everybody_back_once() -> None:
    rolled = on_trial().roll_back("v2", "worse", 5)
    assert (rolled.candidate, rolled.retired, rolled.stable) == (None, ("v2",), STABLE.stable)
    assert rolled.history[0].kind is ChangeKind.ROLLED_BACK
    assert rolled.roll_back("v2", "again", 6) == rolled
    assert STABLE.roll_back("never heard of", "", 6) == STABLE


def test_the_same_candidate_may_change_its_share_and_keeps_its_traffic_meanwhile() -> None:
    grown = on_trial(0.1).propose(Candidate("v2", "/models/v2", 0.3, 500))
    assert grown.candidate == Candidate("v2", "/models/v2", 0.3, 500, live=True)


def test_a_version_that_was_retired_and_comes_back_is_not_unloaded() -> None:
    again = on_trial().roll_back("v2", "", 5).propose(Candidate("v2", "/models/v2", 0.5, 100))
    assert again.retired == ()


def test_what_the_model_server_does_not_hold_any_more_is_not_retired_any_more() -> None:
    rollout = replace(STABLE, retired=("v8", "v9"))
    assert rollout.forget_retired(frozenset({"v1", "v8"})).retired == ("v9",)


def test_what_serves_is_never_retired() -> None:
    rollout = replace(on_trial(), retired=("v9",))
    assert rollout.retire(frozenset({"v1", "v2", "v7", "v9"})).retired == ("v9", "v7")


def test_history_keeps_the_last_fifty() -> None:
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
        ("begin what is not the candidate", "NOT_THE_CANDIDATE"),
        ("renew what is not the candidate", "NOT_THE_CANDIDATE"),
        ("promote what is not the candidate", "NOT_THE_CANDIDATE"),
        ("promote what never answered", "CANDIDATE_NOT_READY"),
        ("roll back stable", "ALREADY_STABLE"),
    ],
)
def test_what_cannot_be_done_now_says_so(name: str, reason: str) -> None:
    fresh = Candidate("v3", "/models/v3", 0.5, 100)
    actions = {
        "propose without stable": lambda: Rollout().propose(fresh),
        "propose the stable version": lambda: STABLE.propose(replace(fresh, version="v1")),
        "propose another candidate": lambda: on_trial().propose(fresh),
        "propose the same candidate from elsewhere": lambda: on_trial().propose(
            replace(fresh, version="v2")
        ),
        "begin what is not the candidate": lambda: STABLE.begin("v2", 100, 0),
        "renew what is not the candidate": lambda: on_trial().renew("v1", 100),
        "promote what is not the candidate": lambda: on_trial().promote("v3", "", 0),
        "promote what never answered": lambda: STABLE.propose(fresh).promote("v3", "", 0),
        "roll back stable": lambda: on_trial().roll_back("v1", "", 0),
    }
    with pytest.raises(FailedPreconditionError) as caught:
        actions[name]()
    assert caught.value.reason == reason


def test_without_a_stable_version_nobody_answers() -> None:
    assert Rollout().assign("acme/ada", 0, candidate_ready=True) is None
