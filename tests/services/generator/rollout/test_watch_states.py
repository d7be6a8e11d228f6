"""The watch after a promotion, as states of the rollout."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.chassis.errors import FailedPreconditionError
from services.contracts.chat import Arm
from services.generator.rollout.encoding import decode, encode
from services.generator.rollout.rollout import (
    Candidate,
    ChangeKind,
    Deployment,
    Halt,
    Rollout,
    WatchTerms,
    user_fraction,
)
from tests.services.generator.rollouts import rollouts

V1, V2 = (Deployment(version, f"/models/{version}") for version in ("v1", "v2"))
USERS = [f"tenant/{number}" for number in range(5000)]
TERMS = WatchTerms(0.05, 100)
LIVE = Rollout(stable=V1).propose(Candidate("v2", "/models/v2", 0.2, 1000)).start("v2", 1000, 0)
WATCHED = LIVE.promote("v2", "better", 10, TERMS)


def versions(rollout: Rollout, now_us: int, ready: bool = True) -> dict[str, str]:
    found = {}
    for user in USERS:
        assignment = rollout.assign(user, now_us, candidate_ready=ready, previous_ready=ready)
        assert assignment is not None and assignment.arm is not Arm.PINNED
        found[user] = assignment.version
    return found


def test_users_of_the_version_before_are_users_that_never_had_the_candidate() -> None:
    before, during = versions(LIVE, 0), versions(WATCHED, 11)
    kept = [user for user in USERS if during[user] == "v1"]
    assert abs(len(kept) / len(USERS) - 0.05) < 0.02
    assert {before[user] for user in kept} == {"v1"}
    assert {during[user] for user in USERS if before[user] == "v2"} == {"v2"}


def test_the_version_before_has_users_only_while_it_is_ready_and_watched() -> None:
    assert set(versions(WATCHED, 11, ready=False).values()) == {"v2"}
    assert set(versions(WATCHED, 110).values()) == {"v2"}
    user = next(user for user in USERS if user_fraction("v2", user) >= 0.95)
    assignment = WATCHED.assign(user, 11, candidate_ready=False, previous_ready=True)
    assert assignment is not None
    assert (assignment.version, assignment.probability) == ("v1", 0.05)


def test_a_watch_without_harm_ends_after_its_time_and_retires_the_version_before() -> None:
    assert WATCHED.retired == ()
    assert WATCHED.expire(109) == WATCHED
    ended = WATCHED.expire(110)
    assert (ended.stable, ended.watch, ended.retired) == (V2, None, ("v1",))
    assert ended.history[0].kind is ChangeKind.WATCH_ENDED


def test_harm_returns_to_the_version_before_once() -> None:
    owned = WATCHED.own_watch(10, "a", 11, 50)
    rolled = owned.roll_back_watched(10, "a", "errors", 20)
    assert (rolled.stable, rolled.watch, rolled.retired) == (V1, None, ("v2",))
    change = rolled.history[0]
    assert (change.kind, change.version, change.reason) == (
        ChangeKind.WATCH_ROLLED_BACK,
        "v2",
        "errors",
    )
    assert rolled.roll_back_watched(10, "a", "errors", 21) == rolled


def test_only_the_owner_of_the_present_watch_rolls_back() -> None:
    assert WATCHED.roll_back_watched(10, "a", "errors", 20) == WATCHED
    owned = WATCHED.own_watch(10, "a", 11, 50)
    assert owned.roll_back_watched(10, "b", "errors", 20) == owned
    assert owned.roll_back_watched(9, "a", "errors", 20) == owned


def test_the_lease_of_the_owner_excludes_others_until_its_end() -> None:
    owned = WATCHED.own_watch(10, "a", 11, 50)
    assert owned.own_watch(10, "b", 49, 90) == owned
    assert owned.own_watch(9, "b", 60, 90) == owned
    renewed = owned.own_watch(10, "a", 40, 80)
    assert renewed.own_watch(10, "b", 60, 90) == renewed
    taken = renewed.own_watch(10, "b", 80, 120)
    assert taken.watch is not None and taken.watch.owner == "b"


def test_a_new_candidate_ends_the_watch() -> None:
    other = WATCHED.propose(Candidate("v3", "/models/v3", 0.2, 1000))
    assert (other.watch, other.stable, other.retired) == (None, V2, ("v1",))
    again = WATCHED.propose(Candidate("v1", "/models/v1", 0.2, 1000))
    assert (again.watch, again.retired) == (None, ())


def test_a_halt_keeps_the_watch_and_its_rollback() -> None:
    halted = WATCHED.halted(Halt(12, "ada", "odd answers"))
    assert halted.watch == WATCHED.watch
    rolled = halted.own_watch(10, "a", 13, 50).roll_back_watched(10, "a", "errors", 20)
    assert (rolled.stable, rolled.halt) == (V1, halted.halt)


@pytest.mark.parametrize(
    ("restored", "retired"), [("v1", ("v2",)), ("v0", ("v1", "v2"))], ids=["before", "earlier"]
)
def test_a_restore_ends_the_watch(restored: str, retired: tuple[str, ...]) -> None:
    halted = WATCHED.halted(Halt(12, "ada", "odd answers"))
    rollout = halted.restored(Deployment(restored, f"/models/{restored}"), "bad", 13)
    assert rollout.stable is not None
    assert (rollout.stable.version, rollout.watch, rollout.retired) == (restored, None, retired)


@pytest.mark.parametrize("terms", [None, WatchTerms(0.0, 100), WatchTerms(0.05, 0)])
def test_promotion_without_terms_has_no_watch(terms: WatchTerms | None) -> None:
    promoted = LIVE.promote("v2", "better", 10, terms)
    assert (promoted.watch, promoted.retired) == (None, ("v1",))


def test_loaded_versions_of_a_watch_are_not_retired() -> None:
    assert WATCHED.retire(frozenset({"v1", "v2", "v9"})).retired == ("v9",)


EARLIER_KINDS = {"started", "promoted", "rolled_back", "lease_expired"}


@given(rollouts)
def test_earlier_releases_refuse_a_watch_and_read_every_other_rollout(rollout: Rollout) -> None:
    content: Any = json.loads(encode(rollout))
    assert (content["format"] == 3) == (rollout.watch is not None)
    assert {entry["kind"] for entry in content["history"]} <= EARLIER_KINDS
    assert decode(json.dumps(content)) == rollout


def test_a_rollout_of_an_earlier_release_is_read() -> None:
    stored = """{"format": 1, "stable": {"version": "v1", "directory": "/models/v1"},
        "candidate": null, "retired": [], "history":
        [{"time_us": 1, "kind": "rolled_back", "version": "v2", "reason": "worse"}]}"""
    rollout = decode(stored)
    assert (rollout.stable, rollout.watch) == (V1, None)
    assert rollout.history[0].kind is ChangeKind.ROLLED_BACK


class RolloutStates(RuleBasedStateMachine):
    """Any order of calls of the loop, operators, replicas and the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.rollout, self.now, self.number = Rollout(stable=V1), 0, 1
        self.loaded = {"v1"}

    def change(self, change: Any) -> None:
        try:
            self.rollout = change(self.rollout.expire(self.now))
        except FailedPreconditionError:
            return

    @rule(seconds=st.integers(1, 60))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        self.rollout = self.rollout.expire(self.now)

    @rule(share=st.floats(0.01, 0.5))
    def canary(self, share: float) -> None:
        version = f"v{self.number + 1}"
        lease_end = self.now + 50
        candidate = Candidate(version, f"/models/{version}", share, lease_end)
        self.change(lambda r: r.propose(candidate).start(version, lease_end, self.now))
        self.number += 1

    @precondition(lambda self: self.rollout.candidate is not None)
    @rule(share=st.sampled_from([0.0, 0.05]))
    def promote(self, share: float) -> None:
        version = self.rollout.candidate.version if self.rollout.candidate else ""
        terms = WatchTerms(share, 100)
        self.change(lambda r: r.promote(version, "", self.now, terms))

    @rule(owner=st.sampled_from("ab"))
    def own(self, owner: str) -> None:
        start_us = self.rollout.watch.start_us if self.rollout.watch else 0
        self.change(lambda r: r.own_watch(start_us, owner, self.now, self.now + 30))

    @rule(owner=st.sampled_from("ab"))
    def harm(self, owner: str) -> None:
        watch, before = self.rollout.watch, self.rollout
        start_us = watch.start_us if watch else 0
        self.change(lambda r: r.roll_back_watched(start_us, owner, "", self.now))
        if watch is None or watch.owner != owner:
            assert self.rollout == before.expire(self.now)

    @rule()
    def halt(self) -> None:
        self.change(lambda r: r.halted(Halt(self.now, "ada", "")))

    @rule()
    def restore(self) -> None:
        self.change(lambda r: r.restored(Deployment("v0", "/models/v0"), "", self.now))

    @rule()
    def resume(self) -> None:
        self.change(lambda r: r.resumed())

    @rule()
    def unload(self) -> None:
        self.loaded -= set(self.rollout.retired)
        self.rollout = self.rollout.forget_retired(frozenset(self.rollout.retired))

    @invariant()
    def the_rollout_is_consistent(self) -> None:
        rollout = self.rollout
        serving = {deployment.version for deployment in rollout.deployments}
        assert rollout.stable is not None
        assert not serving & set(rollout.retired)
        assert not (rollout.watch and rollout.candidate)
        assert not (rollout.halt and rollout.candidate)
        # Every version that was loaded is served, or is retired until it is unloaded.
        self.loaded |= serving
        assert self.loaded == serving | set(rollout.retired)
        assert decode(encode(rollout)) == rollout
        assignment = rollout.assign("ada", self.now, candidate_ready=True, previous_ready=True)
        assert assignment is not None and assignment.version in serving


TestRolloutStates = RolloutStates.TestCase
TestRolloutStates.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
