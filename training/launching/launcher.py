"""Launch of a run: create its RayJob or adopt an existing one, wait, and report the result.

All RayJobs of a release have the same name, so the API server prevents a second one. The status of
the launch is written to status.json, so that page and metrics show a run before its start. The
launcher writes under the lock of the loop, which an active run holds, so a run's status is never
overwritten.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol, TypeVar

from training.errors import DetailedError
from training.launching.kubernetes import ApiError, KubernetesApi, Manifest
from training.launching.ray_job import (
    RAY_JOBS,
    RayJob,
    find_start_failure,
    missing_volume,
    parse,
    ray_job_manifest,
    waits_for_node,
)
from training.runs import (
    FAILED,
    STOPPED,
    LoopRunningError,
    Status,
    Step,
    StepState,
    exclusive,
    now,
    read_status,
    write_status,
)

STEP = "start"
LOCK_TIMEOUT_SECONDS = 60.0  # for a stopped run to release the lock
PODS, RAY_CLUSTERS = "api/v1/pods", "apis/ray.io/v1/rayclusters"
POLL_SECONDS, GONE_SECONDS = 5.0, 300.0
TAKEN_UP_SECONDS = 20.0  # a running operator takes less than 1 s
REPEAT_SECONDS = 60.0  # period of status updates, which show that the launcher still waits
OVERDUE = "DeadlineExceeded"
NOT_YET = "the pods of the run are starting"
QUEUED = "the queue has not admitted the RayJob yet"
NOT_TAKEN_UP = "the KubeRay operator has not processed the RayJob"
DELETED = "the RayJob was deleted"
NOT_WRITTEN = "status not written: another run holds the lock"
BEFORE_PODS = (QUEUED, NOT_TAKEN_UP)  # reasons that cannot explain the end of a run


class LaunchStatus:
    """Status messages of a launch.

    `name` is shown in place of the version.
    """

    def __init__(self, directory: Path, name: str, recipe: str) -> None:
        self._directory, self._name, self._recipe = directory, name, recipe

    def waiting(self, text: str) -> None:
        """Record why the run has not started.

        A run that waits to be resumed keeps its steps.
        """
        # The holder of the lock writes a more detailed status.
        with suppress(LoopRunningError), exclusive(self._directory, "launcher"):
            status = read_status(self._directory)
            if status is None or status.result is not None or status.run == self._name:
                status = self._own(status, Step(STEP, StepState.RUNNING, now(), detail=text))
            else:
                status.reason = text
            self._write(status)

    def failed(self, reason: str) -> bool:
        """Record a failure; return False if another run holds the lock and writes its own status.

        A result of the run itself is kept, except for "stopped", whose cause is now known.
        """
        try:
            with exclusive(self._directory, "launcher", LOCK_TIMEOUT_SECONDS):
                status = read_status(self._directory) or self._own(
                    None, Step(STEP, StepState.RUNNING, now())
                )
                if status.result in (None, STOPPED):
                    steps = [
                        replace(step, state=StepState.FAILED, ended=now())
                        if step.state is StepState.RUNNING
                        else step
                        for step in status.steps
                    ]
                    self._write(replace(status, steps=steps, step="", result=FAILED, reason=reason))
        except LoopRunningError:
            return False
        return True

    def _own(self, last: Status | None, step: Step) -> Status:
        """Return a new status, with the fields that the page needs across runs."""
        status = Status(self._name, self._recipe, now(), STEP, [step])
        if last is not None:
            status.erased_versions, status.needed_thumbs = last.erased_versions, last.needed_thumbs
            status.learned_until = last.learned_until
        return status

    def _write(self, status: Status) -> None:
        status.updated = now()
        write_status(self._directory, status)


Result = TypeVar("Result")


class LaunchError(DetailedError, RuntimeError):
    """A RayJob cannot be created or followed; the text contains the cause."""

    reason = "LAUNCH_FAILED"


class StatusWriter(Protocol):
    """Writer of the status of a launch."""

    def waiting(self, text: str) -> None: ...

    def failed(self, reason: str) -> bool: ...


class Clock(Protocol):
    """Time source, replaceable in tests."""

    def now(self) -> datetime: ...

    def sleep(self, seconds: float) -> None: ...


@dataclass(frozen=True)
class Launch:
    """Parameters of a launch.

    Attributes:
        template: RayJob of the chart.
        job, job_uid: Kubernetes Job of the launcher.
        deadline_seconds: maximum time of the run, including waiting.
    """

    template: Manifest
    job: str
    job_uid: str
    deadline_seconds: float

    @property
    def name(self) -> str:
        return str(self.template["metadata"]["name"])


class Launcher:
    """Launches one run and waits for it."""

    def __init__(
        self,
        launch: Launch,
        api: KubernetesApi,
        status: StatusWriter,
        clock: Clock,
        say: Callable[[str], None],
    ) -> None:
        self._launch, self._api, self._status, self._clock, self._say = (
            launch,
            api,
            status,
            clock,
            say,
        )
        self._last_text, self._written_at = "", datetime.min.replace(tzinfo=UTC)
        self._start_failure = ""

    def run(self) -> bool:
        """Launch and wait; return True if the run ended without a failure."""
        try:
            return self._follow(self._with_retries(self._create_or_adopt))
        except LaunchError as error:
            return self._fail(str(error))

    def _follow(self, job: RayJob) -> bool:
        while not job.ended:
            if self._clock.now() - job.created > timedelta(seconds=self._launch.deadline_seconds):
                return self._cancel(job)
            self._check_start(job)
            self._clock.sleep(POLL_SECONDS)
            seen = self._with_retries(self._read)
            if seen is None or seen.uid != job.uid or seen.deleted:
                return self._fail(DELETED)
            job = seen
        if job.reason == OVERDUE:  # KubeRay detected the deadline first
            return self._cancel(job)
        if self._start_failure in BEFORE_PODS:
            self._start_failure = ""
        if job.succeeded:
            self._say(f"{job.name}: ended")
            return True
        return self._fail(job.failure())

    def _create_or_adopt(self) -> RayJob:
        """Return the RayJob of this run, created or adopted.

        A RayJob that is still active is adopted, even of an earlier run; an ended one is deleted.

        Raises:
            LaunchError: the API server rejects a call.
        """
        manifest, launch = (
            ray_job_manifest(self._launch.template, self._launch.job, self._launch.job_uid),
            self._launch,
        )
        end = self._clock.now() + timedelta(seconds=GONE_SECONDS)
        while self._clock.now() < end:
            job = self._read()
            if job is None:
                # Written before the creation, because afterwards the run itself may write.
                self._publish(NOT_YET)
                if self._api.create(RAY_JOBS, manifest):
                    self._say(f"{launch.name}: created for {launch.job}")
            elif job.deleted:
                self._clock.sleep(POLL_SECONDS)
            elif not job.ended or job.owner_job == launch.job:
                owner = job.owner_job or "unknown job"
                self._say(f"{job.name}: adopted from {owner}, {job.deployment or 'new'}")
                return job
            else:
                self._api.delete(RAY_JOBS, job.name, job.uid)
        raise LaunchError(
            f"the RayJob of an earlier run still exists after {GONE_SECONDS:.0f} s",
            field=launch.name,
            reason="EXISTS",
            limit=f"{GONE_SECONDS:.0f} s",
        )

    def _check_start(self, job: RayJob) -> None:
        """Find reasons why the run does not start, and publish them before the run starts."""
        try:
            found = self._find_start_failure(job)
        except ApiError as error:
            self._say(f"pods not checked: {error}")
            return
        # The last reason may explain a failure, because the pods are gone then. Reasons that the
        # run has overcome do not.
        got_over = job.begun or self._start_failure in BEFORE_PODS
        self._start_failure = found or ("" if got_over else self._start_failure)
        if job.begun:
            self._log_once(found)
        else:
            self._publish(f"waiting for: {found}" if found else NOT_YET)

    def _find_start_failure(self, job: RayJob) -> str:
        if job.suspended or job.deployment in ("Suspended", "Suspending"):
            return QUEUED
        if not job.cluster:
            late = self._clock.now() - job.created > timedelta(seconds=TAKEN_UP_SECONDS)
            return NOT_TAKEN_UP if late and not job.deployment else ""
        pods = self._api.select(PODS, f"ray.io/cluster={job.cluster}")
        pods += self._api.select(PODS, f"job-name={job.name}")
        if failure := find_start_failure(self._api.read(RAY_CLUSTERS, job.cluster), pods):
            return failure
        waiting = (pod for pod in pods if waits_for_node(pod))
        lines = (missing_volume(pod, self._api.events(pod["metadata"]["name"])) for pod in waiting)
        return next((line for line in lines if line), "")

    def _cancel(self, job: RayJob) -> bool:
        """Delete a RayJob after its deadline.

        KubeRay's own deadline is late if KubeRay cannot reach the cluster.
        """
        self._say(f"{job.name}: deadline exceeded, deleting")
        self._with_retries(lambda: self._api.delete(RAY_JOBS, job.name, job.uid))
        end = self._clock.now() + timedelta(seconds=GONE_SECONDS)
        while self._clock.now() < end:
            seen = self._with_retries(self._read)
            if seen is None or seen.uid != job.uid:
                break
            self._clock.sleep(POLL_SECONDS)
        return self._fail(f"deadline of {self._launch.deadline_seconds:.0f} s exceeded")

    def _fail(self, reason: str) -> bool:
        """Report a failure, with the last known reason."""
        text = f"{reason} (seen before: {self._start_failure})" if self._start_failure else reason
        self._say(f"{self._launch.name}: failed: {text}")
        if not self._status.failed(text):
            self._say(NOT_WRITTEN)
        return False

    def _publish(self, text: str) -> None:
        """Write a text to the status; repeat it periodically, or at once if it changed."""
        if self._log_once(text) or self._clock.now() - self._written_at > timedelta(
            seconds=REPEAT_SECONDS
        ):
            self._written_at = self._clock.now()
            self._status.waiting(text)

    def _log_once(self, text: str) -> bool:
        """Log a text if it changed; return True if so."""
        new, self._last_text = text != self._last_text, text
        if new and text:
            self._say(text)
        return new

    def _read(self) -> RayJob | None:
        manifest = self._api.read(RAY_JOBS, self._launch.name)
        return None if manifest is None else parse(manifest)

    def _with_retries(self, call: Callable[[], Result]) -> Result:
        """Repeat a call while the API server is unavailable, which must not end the run.

        Raises:
            LaunchError: the API server rejects the call.
        """
        while True:
            try:
                return call()
            except ApiError as error:
                if not error.temporary:
                    raise LaunchError(
                        f"the API server rejects the call: {error}", reason=error.reason
                    ) from error
                self._log_once(f"the API server is unavailable: {error}")
            self._clock.sleep(POLL_SECONDS)
