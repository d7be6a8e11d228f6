"""Which version answers whom: stable and candidate, the candidate's lease, promotion and rollback.
Pure: no clock, no file.

A user belongs to the candidate if the hash of user and candidate falls below the share, so a
growing share keeps those who are in, and another candidate draws other users. Times are
microseconds since 1970 in UTC.
"""

import hashlib
from dataclasses import dataclass, replace
from enum import StrEnum

from services.chassis.errors import FailedPreconditionError

MAX_HISTORY = 50


class Arm(StrEnum):
    """Why this version answers."""

    STABLE = "stable"
    CANDIDATE = "candidate"
    PINNED = "pinned"


class ChangeKind(StrEnum):
    """What happened to a candidate."""

    STARTED = "started"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    LEASE_EXPIRED = "lease_expired"


@dataclass(frozen=True)
class Deployment:
    """A version and its model directory."""

    version: str
    directory: str


@dataclass(frozen=True)
class Candidate:
    """A version on trial. It has no traffic until it is `live`."""

    version: str
    directory: str
    share: float
    lease_end_us: int
    live: bool = False


@dataclass(frozen=True)
class Change:
    """One change, for people."""

    time_us: int
    kind: ChangeKind
    version: str
    reason: str = ""


@dataclass(frozen=True)
class Assignment:
    """`probability` is that of this arm for any user."""

    version: str
    arm: Arm
    probability: float


@dataclass(frozen=True)
class Rollout:
    """`retired` versions are not wanted any more and may still be loaded. `history` is newest
    first.
    """

    stable: Deployment | None = None
    candidate: Candidate | None = None
    retired: tuple[str, ...] = ()
    history: tuple[Change, ...] = ()

    def propose(self, candidate: Candidate) -> "Rollout":
        """Take a candidate in, without traffic; the present one may change share and lease.

        Raises:
            FailedPreconditionError: there is no stable version, or another candidate.
        """
        if self.stable is None:
            raise _not_now(
                "there is no stable version to compare a candidate with", "NO_STABLE_VERSION"
            )
        if self.stable.version == candidate.version:
            raise _not_now("this version is stable already", "ALREADY_STABLE")
        present = self.candidate
        if present is not None:
            if (present.version, present.directory) != (candidate.version, candidate.directory):
                raise _not_now("another candidate is on trial", "ANOTHER_CANDIDATE")
            candidate = replace(candidate, live=present.live)
        retired = tuple(version for version in self.retired if version != candidate.version)
        return replace(self, candidate=candidate, retired=retired)

    def begin(self, version: str, lease_end_us: int, now_us: int) -> "Rollout":
        """Give the candidate its share. Raises: FailedPreconditionError if it is not the candidate
        any more.
        """
        live = replace(self._candidate(version), live=True, lease_end_us=lease_end_us)
        change = Change(now_us, ChangeKind.STARTED, version, f"share {live.share:g}")
        return replace(self, candidate=live, history=self._with(change))

    def renew(self, version: str, lease_end_us: int) -> "Rollout":
        """Prolong the lease. Raises: FailedPreconditionError if it is not the candidate."""
        return replace(self, candidate=replace(self._candidate(version), lease_end_us=lease_end_us))

    def promote(self, version: str, reason: str, now_us: int) -> "Rollout":
        """Make the candidate stable; promoting what is stable changes nothing.

        Raises:
            FailedPreconditionError: it is neither, or was never live.
        """
        if self.stable is not None and self.stable.version == version:
            return self
        candidate = self._candidate(version)
        if not candidate.live:
            raise _not_now("the candidate is not ready yet", "CANDIDATE_NOT_READY")
        return Rollout(
            stable=Deployment(version, candidate.directory),
            retired=self._retiring(self.stable.version if self.stable else ""),
            history=self._with(Change(now_us, ChangeKind.PROMOTED, version, reason)),
        )

    def roll_back(self, version: str, reason: str, now_us: int) -> "Rollout":
        """Take the candidate out; rolling back what is gone changes nothing.

        Raises:
            FailedPreconditionError: the version is stable.
        """
        if self.stable is not None and self.stable.version == version:
            raise _not_now(
                "this version is stable; start another as candidate and promote it",
                "ALREADY_STABLE",
            )
        if self.candidate is None or self.candidate.version != version:
            return self
        return self._without_candidate(Change(now_us, ChangeKind.ROLLED_BACK, version, reason))

    def expire(self, now_us: int) -> "Rollout":
        """Take out a candidate whose lease has ended."""
        if self.candidate is None or now_us < self.candidate.lease_end_us:
            return self
        change = Change(
            now_us, ChangeKind.LEASE_EXPIRED, self.candidate.version, "nobody renewed the lease"
        )
        return self._without_candidate(change)

    def retire(self, versions: frozenset[str]) -> "Rollout":
        """Take in what is loaded and answers nobody."""
        serving = {place.version for place in (self.stable, self.candidate) if place is not None}
        return replace(
            self, retired=(*self.retired, *sorted(versions - serving - set(self.retired)))
        )

    def forget_retired(self, gone: frozenset[str]) -> "Rollout":
        """Drop what the model server does not hold any more."""
        return replace(
            self, retired=tuple(version for version in self.retired if version not in gone)
        )

    def assign(self, user_key: str, now_us: int, *, candidate_ready: bool) -> Assignment | None:
        """Who answers this user; None without a stable version. A candidate that is not ready has
        no users.
        """
        if self.stable is None:
            return None
        share = self._live_share(now_us) if candidate_ready else 0.0
        if self.candidate is not None and position(self.candidate.version, user_key) < share:
            return Assignment(self.candidate.version, Arm.CANDIDATE, share)
        return Assignment(self.stable.version, Arm.STABLE, 1.0 - share)

    def _live_share(self, now_us: int) -> float:
        if (
            self.candidate is None
            or not self.candidate.live
            or now_us >= self.candidate.lease_end_us
        ):
            return 0.0
        return self.candidate.share

    def _candidate(self, version: str) -> Candidate:
        if self.candidate is None or self.candidate.version != version:
            raise _not_now("this version is not the candidate", "NOT_THE_CANDIDATE")
        return self.candidate

    def _without_candidate(self, change: Change) -> "Rollout":
        return replace(
            self, candidate=None, retired=self._retiring(change.version), history=self._with(change)
        )

    def _retiring(self, version: str) -> tuple[str, ...]:
        return (*self.retired, version) if version and version not in self.retired else self.retired

    def _with(self, change: Change) -> tuple[Change, ...]:
        return (change, *self.history)[:MAX_HISTORY]


def position(version: str, user_key: str) -> float:
    """Where a user stands for a candidate: uniform in [0, 1), the same for ever."""
    digest = hashlib.sha256(f"{version}\n{user_key}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _not_now(text: str, reason: str) -> FailedPreconditionError:
    return FailedPreconditionError(text, reason=reason, field="version")
