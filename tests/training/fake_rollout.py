"""Fakes of the generator rollout and of the clock, for tests of the canary."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sequential.figures import RateSums, VersionFigures
from training.errors import UnavailableError
from training.evaluation.canary import Verdict
from training.evaluation.canary_run import REFUSED, CandidateState, RolloutView


class FakeClock:
    """A clock that advances only in `sleep`."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 11, 24, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment

    def sleep(self, seconds: float) -> None:
        self.moment += timedelta(seconds=seconds)


class FakeRollout:
    """Stable version and candidate, with a lease that removes the candidate on expiry."""

    def __init__(self, clock: FakeClock, stable: str = "nano-0", loads: bool = True) -> None:
        self._clock, self._loads = clock, loads
        self.stable, self.candidate = stable, ""
        self.lease_end = clock.now()
        self.calls: list[str] = []
        self.share = 0.0
        self.counts: dict[str, VersionFigures] = {}
        self.reason: str | None = None

    def halt(self, reason: str) -> None:
        """Remove the candidate, as a halt by an operator does."""
        self.candidate, self.reason = "", reason

    def view(self) -> RolloutView:
        if self.candidate and self._clock.now() > self.lease_end:
            self.candidate = ""
        if not self.candidate:
            return RolloutView(self.stable, "", CandidateState.ABSENT, halt=self.reason)
        state = CandidateState.READY if self._loads else CandidateState.FAILED
        reason = "" if self._loads else "no memory"
        return RolloutView(self.stable, self.candidate, state, reason, share=self.share)

    def traffic(self, versions: Sequence[str]) -> Mapping[str, VersionFigures]:
        return self.counts

    def start(self, version: str, directory: Path, share: float, lease_seconds: float) -> None:
        self.calls.append(f"start {version} {share}")
        self._refuse_if(self.reason is not None)
        self.share = share
        self.candidate = version
        self.renew(version, lease_seconds)

    def renew(self, version: str, lease_seconds: float) -> None:
        self._refuse_if(version != self.candidate)
        self.lease_end = self._clock.now() + timedelta(seconds=lease_seconds)

    def finish(self, version: str, verdict: Verdict, reason: str) -> None:
        self.calls.append(f"{verdict} {version}")
        if verdict is Verdict.PROMOTE:
            self._refuse_if(version not in (self.candidate, self.stable))
            self.stable = version
        self.candidate = ""

    def _refuse_if(self, is_forbidden: bool) -> None:
        if is_forbidden:
            raise UnavailableError("refused", field="generator", reason=REFUSED)


class GrowingThumbs:
    """Users with a thumb each, whose number grows with each reading, at the given rates by arm."""

    def __init__(self, rates: dict[str, float], each: int = 10) -> None:
        self._rates, self._each = rates, each
        self.looks = 0
        self.asked_since: list[datetime] = []
        self.sums: dict[str, dict[str, RateSums]] = {}

    def version_feedback(
        self, versions: Sequence[str], since: datetime
    ) -> Mapping[str, VersionFigures]:
        self.looks += 1
        self.asked_since.append(since)
        total = self.looks * self._each
        ups = {version: round(total * rate) for version, rate in self._rates.items()}
        return {
            version: VersionFigures(
                user_shares={1.0: up, 0.0: total - up}, rates=self.sums.get(version, {})
            )
            for version, up in ups.items()
        }
