"""State machine of the rollout: stable version, candidate, promotion, rollback, watch, halt.

Stored as JSON (encoding.py). Pure functions without clock and files. A user is assigned to the
candidate if the hash of user and candidate is below the share. A growing share therefore keeps its
users, and another candidate selects other users. During the watch after a promotion the version
before keeps the users with the highest hashes, which were never users of the candidate. Times are
microseconds since 1970 in UTC.
"""

import hashlib
from dataclasses import dataclass, replace
from enum import StrEnum

from services.chassis.errors import FailedPreconditionError
from services.contracts.chat import Arm

MAX_HISTORY = 50
HALTED = "ROLLOUT_HALTED"


class ChangeKind(StrEnum):
    """Kind of an entry in the history."""

    STARTED = "started"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    LEASE_EXPIRED = "lease_expired"
    WATCH_ROLLED_BACK = "watch_rolled_back"
    WATCH_ENDED = "watch_ended"


@dataclass(frozen=True)
class Deployment:
    """A version with its model directory."""

    version: str
    directory: str


@dataclass(frozen=True)
class Candidate:
    """The version under test; without users until `live` is set."""

    version: str
    directory: str
    share: float
    lease_end_us: int
    live: bool = False


@dataclass(frozen=True)
class WatchTerms:
    """Terms of the watch after a promotion; without a watch if share or duration is 0."""

    share: float
    duration_us: int

    @property
    def is_on(self) -> bool:
        """Return True if promotions are watched."""
        return self.share > 0 and self.duration_us > 0


@dataclass(frozen=True)
class Watch:
    """Comparison of the stable version with the version before, after a promotion.

    Args:
        previous: the version before, which returns as the stable version after harm.
        share: its share of the users.
        start_us: time of the promotion, which also identifies the watch.
        end_us: end without harm; then the version before is retired.
        owner: replica that compares the versions; empty without one.
        owner_lease_end_us: time from which another replica may become the owner.
        renewals: number of changes of owner and lease, which are no changes for users.
    """

    previous: Deployment
    share: float
    start_us: int
    end_us: int
    owner: str = ""
    owner_lease_end_us: int = 0
    renewals: int = 0


@dataclass(frozen=True)
class Change:
    """One entry of the history, shown to operators."""

    time_us: int
    kind: ChangeKind
    version: str
    reason: str = ""


@dataclass(frozen=True)
class Halt:
    """Order of an operator: no canary, no promotion and no training run until `resume`."""

    time_us: int
    operator: str
    reason: str


@dataclass(frozen=True)
class Assignment:
    """Version and arm of a request; `probability` is that of this arm for any user."""

    version: str
    arm: Arm
    probability: float


@dataclass(frozen=True)
class Rollout:
    """The stable version, the candidate, and past versions.

    Args:
        stable: version of most users.
        candidate: version under test.
        retired: versions outside the rollout, possibly still loaded.
        history: changes, newest first.
        halt: order of an operator; without a candidate while set.
        watch: comparison after a promotion; without a candidate while set.
    """

    stable: Deployment | None = None
    candidate: Candidate | None = None
    retired: tuple[str, ...] = ()
    history: tuple[Change, ...] = ()
    halt: Halt | None = None
    watch: Watch | None = None

    def is_small_candidate(self, version: str, max_share: float) -> bool:
        """Return True for a candidate with at most this share of the users; never for 0."""
        found = self.candidate
        return found is not None and found.version == version and 0 < found.share <= max_share

    @property
    def deployments(self) -> tuple[Deployment | Candidate, ...]:
        """Return all versions that must be loaded."""
        previous = self.watch.previous if self.watch else None
        return tuple(found for found in (self.stable, self.candidate, previous) if found)

    def propose(self, candidate: Candidate) -> "Rollout":
        """Add a candidate without traffic, or change share and lease of the present candidate.

        A new candidate ends the watch: a run of the loop must not wait for it, and the model
        server must not hold three versions.

        Raises:
            FailedPreconditionError: the rollout is halted, or there is no stable version, or
                another candidate.
        """
        self._require_no_halt()
        if self.stable is None:
            raise _precondition_error(
                "there is no stable version to compare a candidate with", "NO_STABLE_VERSION"
            )
        if self.stable.version == candidate.version:
            raise _precondition_error("this version is stable already", "ALREADY_STABLE")
        present = self.candidate
        if present is not None:
            if (present.version, present.directory) != (candidate.version, candidate.directory):
                raise _precondition_error("there is another candidate", "ANOTHER_CANDIDATE")
            candidate = replace(candidate, live=present.live)
        retired = tuple(v for v in self._without_watch().retired if v != candidate.version)
        return replace(self, candidate=candidate, retired=retired, watch=None)

    def start(self, version: str, lease_end_us: int, now_us: int) -> "Rollout":
        """Assign the candidate its share of the users.

        Raises:
            FailedPreconditionError: the version is no longer the candidate.
        """
        live = replace(self._candidate(version), live=True, lease_end_us=lease_end_us)
        change = Change(now_us, ChangeKind.STARTED, version, f"share {live.share:g}")
        return replace(self, candidate=live, history=self._with_change(change))

    def renew(self, version: str, lease_end_us: int) -> "Rollout":
        """Extend the lease of the candidate.

        Raises:
            FailedPreconditionError: the version is not the candidate.
        """
        return replace(self, candidate=replace(self._candidate(version), lease_end_us=lease_end_us))

    def promote(
        self, version: str, reason: str, now_us: int, terms: WatchTerms | None = None
    ) -> "Rollout":
        """Make the candidate stable. For the stable version nothing changes.

        With terms, the version before keeps a share of the users until the watch ends.

        Raises:
            FailedPreconditionError: the version is neither, or was never live.
        """
        if self.stable is not None and self.stable.version == version:
            return self
        candidate = self._candidate(version)
        if not candidate.live:
            raise _precondition_error("the candidate is not ready yet", "CANDIDATE_NOT_READY")
        watch = None
        if terms is not None and terms.is_on and self.stable is not None:
            watch = Watch(self.stable, terms.share, now_us, now_us + terms.duration_us)
        return Rollout(
            stable=Deployment(version, candidate.directory),
            retired=self._retiring(self.stable.version if self.stable and not watch else ""),
            history=self._with_change(Change(now_us, ChangeKind.PROMOTED, version, reason)),
            watch=watch,
        )

    def roll_back(self, version: str, reason: str, now_us: int) -> "Rollout":
        """Remove the candidate. For a version that is already removed nothing changes.

        Raises:
            FailedPreconditionError: the version is stable.
        """
        if self.stable is not None and self.stable.version == version:
            raise _precondition_error(
                "this version is stable; start another as candidate and promote it",
                "ALREADY_STABLE",
            )
        if self.candidate is None or self.candidate.version != version:
            return self
        return self._without_candidate(Change(now_us, ChangeKind.ROLLED_BACK, version, reason))

    def halted(self, halt: Halt) -> "Rollout":
        """Remove the candidate and refuse others until `resumed`. An existing halt is unchanged.

        A watch continues: its only act is the return to the version before.
        """
        if self.halt is not None:
            return self
        ended = self
        if self.candidate is not None:
            reason = f"halted: {halt.reason}"
            ended = self.roll_back(self.candidate.version, reason, halt.time_us)
        return replace(ended, halt=halt)

    def resumed(self) -> "Rollout":
        """Remove the halt; candidates are permitted again."""
        return replace(self, halt=None)

    def restored(self, stable: Deployment, reason: str, now_us: int) -> "Rollout":
        """Make another version stable without a canary; permitted during a halt only.

        The order ends a watch.

        Raises:
            FailedPreconditionError: the rollout is not halted, or the version is stable already.
        """
        if self.halt is None:
            raise _precondition_error(
                "only a halted rollout can be restored; run `thumbwheel halt` first", "NOT_HALTED"
            )
        if self.stable is not None and self.stable.version == stable.version:
            raise _precondition_error("this version is stable already", "ALREADY_STABLE")
        ended = self._without_watch()
        retired = ended._retiring(self.stable.version if self.stable else "")
        return replace(
            ended,
            stable=stable,
            retired=tuple(version for version in retired if version != stable.version),
            history=self._with_change(
                Change(now_us, ChangeKind.PROMOTED, stable.version, f"restored: {reason}")
            ),
        )

    def own_watch(self, start_us: int, owner: str, now_us: int, lease_end_us: int) -> "Rollout":
        """Make a replica the owner of the watch, or extend its lease.

        Nothing changes if the watch has ended or another replica holds a lease.
        """
        watch = self.watch
        if watch is None or watch.start_us != start_us:
            return self
        if watch.owner not in ("", owner) and now_us < watch.owner_lease_end_us:
            return self
        owned = replace(
            watch, owner=owner, owner_lease_end_us=lease_end_us, renewals=watch.renewals + 1
        )
        return replace(self, watch=owned)

    def roll_back_watched(self, start_us: int, owner: str, reason: str, now_us: int) -> "Rollout":
        """Return to the version before the promotion, by the owner of the watch only."""
        watch, stable = self.watch, self.stable
        if watch is None or stable is None or (watch.start_us, watch.owner) != (start_us, owner):
            return self
        change = Change(now_us, ChangeKind.WATCH_ROLLED_BACK, stable.version, reason)
        return replace(
            self,
            stable=watch.previous,
            watch=None,
            retired=self._retiring(stable.version),
            history=self._with_change(change),
        )

    def end_watch(self, reason: str, now_us: int) -> "Rollout":
        """Keep the stable version and retire the version before, if there is a watch."""
        if self.watch is None or self.stable is None:
            return self
        change = Change(now_us, ChangeKind.WATCH_ENDED, self.stable.version, reason)
        return replace(self._without_watch(), history=self._with_change(change))

    def expire(self, now_us: int) -> "Rollout":
        """Remove the candidate if its lease has ended, and end a watch whose time is over."""
        if self.watch is not None and now_us >= self.watch.end_us:
            return self.end_watch(f"no harm against {self.watch.previous.version}", now_us)
        if self.candidate is None or now_us < self.candidate.lease_end_us:
            return self
        change = Change(
            now_us, ChangeKind.LEASE_EXPIRED, self.candidate.version, "the lease was not renewed"
        )
        return self._without_candidate(change)

    def retire(self, versions: frozenset[str]) -> "Rollout":
        """Add loaded versions to `retired`, except those that must be loaded."""
        serving = {deployment.version for deployment in self.deployments}
        return replace(
            self, retired=(*self.retired, *sorted(versions - serving - set(self.retired)))
        )

    def forget_retired(self, unloaded: frozenset[str]) -> "Rollout":
        """Remove versions from `retired` that the model server no longer holds."""
        return replace(
            self, retired=tuple(version for version in self.retired if version not in unloaded)
        )

    def assign(
        self, user_key: str, now_us: int, *, candidate_ready: bool, previous_ready: bool = False
    ) -> Assignment | None:
        """Return the version assigned to this user, or None without a stable version.

        A candidate that is not ready has no users, and neither has the version before during a
        watch.
        """
        if self.stable is None:
            return None
        watch = self.watch
        if watch is not None and previous_ready and now_us < watch.end_us:
            if user_fraction(self.stable.version, user_key) >= 1.0 - watch.share:
                return Assignment(watch.previous.version, Arm.STABLE, watch.share)
            return Assignment(self.stable.version, Arm.STABLE, 1.0 - watch.share)
        share, candidate = 0.0, self.candidate
        if candidate is not None and candidate_ready:
            share = candidate.share if candidate.live and now_us < candidate.lease_end_us else 0.0
            if user_fraction(candidate.version, user_key) < share:
                return Assignment(candidate.version, Arm.CANDIDATE, share)
        return Assignment(self.stable.version, Arm.STABLE, 1.0 - share)

    def _require_no_halt(self) -> None:
        if self.halt is not None:
            raise _precondition_error("an operator has halted the rollout", HALTED)

    def _candidate(self, version: str) -> Candidate:
        self._require_no_halt()
        if self.candidate is None or self.candidate.version != version:
            raise _precondition_error("this version is not the candidate", "NOT_THE_CANDIDATE")
        return self.candidate

    def _without_candidate(self, change: Change) -> "Rollout":
        return replace(
            self,
            candidate=None,
            retired=self._retiring(change.version),
            history=self._with_change(change),
        )

    def _without_watch(self) -> "Rollout":
        if self.watch is None:
            return self
        return replace(self, watch=None, retired=self._retiring(self.watch.previous.version))

    def _retiring(self, version: str) -> tuple[str, ...]:
        return (*self.retired, version) if version and version not in self.retired else self.retired

    def _with_change(self, change: Change) -> tuple[Change, ...]:
        return (change, *self.history)[:MAX_HISTORY]


def user_fraction(version: str, user_key: str) -> float:
    """Return the stable hash of the user into [0, 1), uniform for each version."""
    digest = hashlib.sha256(f"{version}\n{user_key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _precondition_error(text: str, reason: str) -> FailedPreconditionError:
    return FailedPreconditionError(text, reason=reason, field="version")
