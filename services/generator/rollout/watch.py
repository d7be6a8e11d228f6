"""The watch after a promotion: compare with the version before, and return to it after harm.

One replica owns the watch under a lease in the stored rollout and compares both versions at every
poll, with the tests of the canary. They are valid at any number of looks. The loop takes no part.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from sequential.figures import VersionFigures
from sequential.rows import Judgement, RowsConfig, Verdict, judge
from services.chassis.audit.acts import Act
from services.chassis.errors import ServiceError, UnavailableError
from services.chassis.telemetry import fields
from services.generator.metrics import WATCH_E_VALUE, WATCH_LOOK_TIME
from services.generator.rollout.canary import MAX_REASON_CHARACTERS
from services.generator.rollout.current_rollout import CurrentRollout
from services.generator.rollout.rollout import Rollout, Watch
from services.generator.rollout.traffic import TrafficCounter

log = logging.getLogger(__name__)

# The lease ends after this many polls without a renewal, and is renewed after a third of them.
LEASE_POLLS = 6


class FeedbackCounts(Protocol):
    """Users' shares and rates by version, of answers since a time. Raises ServiceError."""

    async def version_feedback(
        self, versions: Sequence[str], since_us: int
    ) -> Mapping[str, VersionFigures]: ...


class VersionWatch:
    """Compares the stable version with the version before while there is a watch.

    Args:
        replica: name of this process, unique among the replicas.
        poll_seconds: interval between comparisons.
        config: bound on false alarms; None ends a watch, because the settings switch it off.
    """

    def __init__(
        self,
        current: CurrentRollout,
        traffic: TrafficCounter,
        feedback: FeedbackCounts,
        replica: str,
        poll_seconds: float,
        config: RowsConfig | None,
    ) -> None:
        self._current = current
        self._traffic = traffic
        self._feedback = feedback
        self._replica = replica
        self._poll_seconds = poll_seconds
        self._config = config
        self._feedback_available = True

    async def run(self) -> None:
        """Compare periodically until cancelled. Without the store, later polls try again."""
        while True:
            with suppress(UnavailableError):
                await self.look()
            await asyncio.sleep(self._poll_seconds)

    async def look(self) -> Judgement | None:
        """Compare both versions once and apply a rollback; None without a watch of this replica.

        Raises:
            UnavailableError: the store does not answer.
        """
        rollout = self._current.rollout
        if rollout.watch is None:
            WATCH_E_VALUE.clear()
            return None
        if self._config is None:
            now_us = self._current.now_us()
            await self._current.change(lambda found: found.end_watch("switched off", now_us))
            return None
        rollout = await self._owned(rollout.watch)
        watch, stable = rollout.watch, rollout.stable
        if watch is None or stable is None or watch.owner != self._replica:
            WATCH_E_VALUE.clear()
            return None
        versions = (stable.version, watch.previous.version)
        traffic = await self._traffic.read(versions, watch.start_us)
        feedback = await self._version_feedback(versions, watch.start_us)
        none = VersionFigures()
        promoted, before = (
            traffic.get(version, none).with_feedback(feedback.get(version, none))
            for version in versions
        )
        # In a thread, since the tests of histograms take longer than a callback may.
        judgement = await asyncio.to_thread(judge, promoted, before, self._config)
        for row in judgement.rows:
            WATCH_E_VALUE.labels(stable.version, row.name).set(row.e_worse)
        WATCH_LOOK_TIME.set(self._current.now_us() / 1e6)
        if judgement.verdict is Verdict.ROLL_BACK:
            await self._roll_back(stable.version, watch, judgement.reason)
        return judgement

    async def _owned(self, watch: Watch) -> Rollout:
        """Return the rollout after an attempt to own the watch, or to renew a lease in time."""
        now_us = self._current.now_us()
        lease_us = int(LEASE_POLLS * self._poll_seconds * 1e6)
        is_ours = watch.owner == self._replica
        if is_ours and now_us < watch.owner_lease_end_us - lease_us * 2 // 3:
            return self._current.rollout
        if not is_ours and watch.owner and now_us < watch.owner_lease_end_us:
            return self._current.rollout
        rollout = await self._current.change(
            lambda found: found.own_watch(watch.start_us, self._replica, now_us, now_us + lease_us)
        )
        if not is_ours and rollout.watch is not None and rollout.watch.owner == self._replica:
            log.info("watch owned", extra=fields(version=_stable(rollout), replica=self._replica))
            await self._traffic.forget(rollout.watch.start_us)
        return rollout

    async def _version_feedback(
        self, versions: Sequence[str], since_us: int
    ) -> Mapping[str, VersionFigures]:
        """Return the feedback; without the feedback service nothing, so that traffic decides."""
        try:
            found = await self._feedback.version_feedback(versions, since_us)
        except ServiceError as error:
            if self._feedback_available:
                log.warning(
                    "watch without feedback, by traffic alone", extra=fields(reason=error.reason)
                )
            self._feedback_available = False
            return {}
        self._feedback_available = True
        return found

    async def _roll_back(self, version: str, watch: Watch, reason: str) -> None:
        reason = reason[:MAX_REASON_CHARACTERS]
        now_us = self._current.now_us()
        rollout = await self._current.change(
            lambda found: found.roll_back_watched(watch.start_us, self._replica, reason, now_us),
            Act("promotion rolled back", "generator", version, detail=reason),
        )
        if _stable(rollout) == watch.previous.version:
            log.warning(
                "promotion rolled back", extra=fields(version=version, stable=_stable(rollout))
            )


def _stable(rollout: Rollout) -> str:
    return rollout.stable.version if rollout.stable else ""
