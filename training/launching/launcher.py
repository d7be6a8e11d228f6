"""One turn as one story: make its RayJob or adopt the one that is there, wait, and say how it
ended.

All turns of a release have one name, so that the API server itself lets only one be, whatever
started it and whatever died.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

from training.errors import DetailedError
from training.launching.kubernetes import ApiError, Manifest
from training.launching.ray_job import RAY_JOBS, RayJob, filled, parse
from training.launching.start_failure import hindrance, missing_volume, waits_for_its_node

PODS, RAY_CLUSTERS = "api/v1/pods", "apis/ray.io/v1/rayclusters"
POLL_SECONDS, GONE_SECONDS = 5.0, 300.0
TAKEN_UP_SECONDS = 20.0  # an operator that runs does it within one
REPEAT_SECONDS = 60.0  # a notice is renewed so often: whoever looks sees that somebody still waits
OVERDUE = "DeadlineExceeded"
NOT_YET = "the pods of the turn are starting"
QUEUED = "it waits to be admitted by its queue"
NOT_TAKEN_UP = "the KubeRay operator has not taken it up"
DELETED = "somebody deleted its RayJob"
NOT_WRITTEN = "not written down: another turn holds the lock"
BEFORE_PODS = (QUEUED, NOT_TAKEN_UP)  # whoever has ended has got over these


Result = TypeVar("Result")


class LaunchError(DetailedError, RuntimeError):
    """No RayJob can be made or followed; the text says why."""

    reason = "LAUNCH_FAILED"


class Api(Protocol):
    """The API server, as kubernetes.py has it."""

    def read(self, kind: str, name: str) -> Manifest | None: ...

    def select(self, kind: str, labels: str) -> list[Manifest]: ...

    def events(self, pod: str) -> list[Manifest]: ...

    def create(self, kind: str, manifest: Manifest) -> bool: ...

    def delete(self, kind: str, name: str, uid: str) -> None: ...


class Notices(Protocol):
    """Where people see it."""

    def waiting(self, text: str) -> None: ...

    def failed(self, reason: str) -> bool: ...


class Clock(Protocol):
    """Time, so that a test need not wait."""

    def now(self) -> datetime: ...

    def sleep(self, seconds: float) -> None: ...


@dataclass(frozen=True)
class Turn:
    """What is to be run: the chart's RayJob, the Kubernetes Job that asks for it, and how long it
    may take, its waiting included.
    """

    template: Manifest
    job: str
    job_uid: str
    deadline_seconds: float

    @property
    def name(self) -> str:
        return str(self.template["metadata"]["name"])


class Launcher:
    """Runs one turn."""

    def __init__(
        self, turn: Turn, api: Api, notices: Notices, clock: Clock, say: Callable[[str], None]
    ) -> None:
        self._turn, self._api, self._notices, self._clock, self._say = (
            turn,
            api,
            notices,
            clock,
            say,
        )
        self._told, self._told_at = "", datetime.min.replace(tzinfo=UTC)
        self._hindrance = ""

    def run(self) -> bool:
        """Whether the turn came to its end."""
        try:
            return self._follow(self._patiently(self._take))
        except LaunchError as error:
            return self._fail(str(error))

    def _follow(self, job: RayJob) -> bool:
        while not job.ended:
            if self._clock.now() - job.created > timedelta(seconds=self._turn.deadline_seconds):
                return self._give_up(job)
            self._look(job)
            self._clock.sleep(POLL_SECONDS)
            seen = self._patiently(self._read)
            if seen is None or seen.uid != job.uid or seen.deleted:
                return self._fail(DELETED)
            job = seen
        if job.reason == OVERDUE:  # KubeRay was first
            return self._give_up(job)
        if self._hindrance in BEFORE_PODS:
            self._hindrance = ""
        if job.succeeded:
            self._say(f"{job.name}: ended")
            return True
        return self._fail(job.failure())

    def _take(self) -> RayJob:
        """The RayJob of this turn. One of an earlier turn that still runs is adopted; one that has
        ended makes room.

        Raises:
            LaunchError: the API server refuses it.
        """
        manifest, turn = filled(self._turn.template, self._turn.job, self._turn.job_uid), self._turn
        end = self._clock.now() + timedelta(seconds=GONE_SECONDS)
        while self._clock.now() < end:
            job = self._read()
            if job is None:
                # Before it is made: from then on the turn itself may write.
                self._tell(NOT_YET)
                if self._api.create(RAY_JOBS, manifest):
                    self._say(f"{turn.name}: made for {turn.job}")
            elif job.deleted:
                self._clock.sleep(POLL_SECONDS)
            elif not job.ended or job.turn == turn.job:
                self._say(f"{job.name}: of {job.turn or 'nobody'}, {job.deployment or 'new'}")
                return job
            else:
                self._api.delete(RAY_JOBS, job.name, job.uid)
        raise LaunchError(
            f"the RayJob of an earlier turn was not gone after {GONE_SECONDS:.0f} s",
            field=turn.name,
            reason="EXISTS",
            limit=f"{GONE_SECONDS:.0f} s",
        )

    def _look(self, job: RayJob) -> None:
        """See what hinders it, and tell of it where the turn itself cannot yet."""
        try:
            found = self._find_hindrance(job)
        except ApiError as error:
            self._say(f"not seen: {error}")
            return
        # What was seen last explains an end: the pods are gone by then. What a turn has got over
        # does not.
        got_over = job.begun or self._hindrance in BEFORE_PODS
        self._hindrance = found or ("" if got_over else self._hindrance)
        if job.begun:
            self._mention(found)
        else:
            self._tell(f"waiting for: {found}" if found else NOT_YET)

    def _find_hindrance(self, job: RayJob) -> str:
        if job.suspended or job.deployment in ("Suspended", "Suspending"):
            return QUEUED
        if not job.cluster:
            late = self._clock.now() - job.created > timedelta(seconds=TAKEN_UP_SECONDS)
            return NOT_TAKEN_UP if late and not job.deployment else ""
        pods = self._api.select(PODS, f"ray.io/cluster={job.cluster}")
        pods += self._api.select(PODS, f"job-name={job.name}")
        return hindrance(
            self._api.read(RAY_CLUSTERS, job.cluster), pods
        ) or self._find_missing_volume(pods)

    def _find_missing_volume(self, pods: Sequence[Manifest]) -> str:
        waiting = (pod for pod in pods if waits_for_its_node(pod))
        lines = (missing_volume(pod, self._api.events(pod["metadata"]["name"])) for pod in waiting)
        return next((line for line in lines if line), "")

    def _give_up(self, job: RayJob) -> bool:
        """Past its deadline: KubeRay's own is late where it cannot reach the cluster."""
        self._say(f"{job.name}: past its deadline, deleted")
        self._patiently(lambda: self._api.delete(RAY_JOBS, job.name, job.uid))
        end = self._clock.now() + timedelta(seconds=GONE_SECONDS)
        while self._clock.now() < end:
            seen = self._patiently(self._read)
            if seen is None or seen.uid != job.uid:
                break
            self._clock.sleep(POLL_SECONDS)
        return self._fail(f"it had not ended after {self._turn.deadline_seconds:.0f} s")

    def _fail(self, reason: str) -> bool:
        """The reason, with what was seen to hinder it."""
        text = f"{reason} (seen before: {self._hindrance})" if self._hindrance else reason
        self._say(f"{self._turn.name}: failed: {text}")
        if not self._notices.failed(text):
            self._say(NOT_WRITTEN)
        return False

    def _tell(self, text: str) -> None:
        """Written down; again after a while, and at once where it is something else."""
        if self._mention(text) or self._clock.now() - self._told_at > timedelta(
            seconds=REPEAT_SECONDS
        ):
            self._told_at = self._clock.now()
            self._notices.waiting(text)

    def _mention(self, text: str) -> bool:
        """In the log, once. Whether it is something else than before."""
        new, self._told = text != self._told, text
        if new and text:
            self._say(text)
        return new

    def _read(self) -> RayJob | None:
        manifest = self._api.read(RAY_JOBS, self._turn.name)
        return None if manifest is None else parse(manifest)

    def _patiently(self, call: Callable[[], Result]) -> Result:
        """Again and again while the API server is away: a turn does not end because nobody could
        ask for it.

        Raises:
            LaunchError: it refuses.
        """
        while True:
            try:
                return call()
            except ApiError as error:
                if not error.passing:
                    raise LaunchError(
                        f"the API server refuses: {error}", reason=error.reason
                    ) from error
                self._mention(f"the API server is away: {error}")
            self._clock.sleep(POLL_SECONDS)
