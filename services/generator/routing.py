"""Which version answers this request: the pinned one, or the one that the rollout assigns to its
user.
"""

from services.chassis.errors import NotFoundError, UnavailableError
from services.generator.reconcile import Reconciler, State
from services.generator.rollout import Arm, Assignment
from services.generator.traffic import Traffic

RETRY_SECONDS = 2.0
NO_MODEL = "no model is installed: `make up` installs the small one, MODEL= another, TW_GENERATOR_STABLE_DIRECTORY names one"


class Router:
    """Decides by the rollout and by what is ready."""

    def __init__(self, traffic: Traffic, reconciler: Reconciler) -> None:
        self._traffic = traffic
        self._reconciler = reconciler

    def choose(self, user_key: str, pinned_version: str) -> Assignment:
        """The version that answers.

        Raises:
            NotFoundError: the pinned version is not served.
            UnavailableError: no version is ready, reason MODEL_NOT_READY; the text says what to do.
        """
        if pinned_version:
            return self._pinned(pinned_version)
        rollout = self._traffic.rollout
        candidate = rollout.candidate
        candidate_ready = candidate is not None and self._reconciler.is_served(candidate.version)
        assignment = rollout.assign(
            user_key, self._traffic.now_us(), candidate_ready=candidate_ready
        )
        if assignment is None:
            raise UnavailableError(NO_MODEL, reason="MODEL_NOT_READY")
        self._check_ready(assignment.version)
        return assignment

    def lost(self, assignment: Assignment) -> NotFoundError | UnavailableError:
        """The error for a version that the model server turned out not to have; it is loaded again
        at once.
        """
        self._reconciler.hurry()
        if assignment.arm is Arm.PINNED:
            return _not_served()
        return UnavailableError(
            "the model server has lost this version and loads it again; try again in a moment",
            reason="MODEL_NOT_READY",
            retry_seconds=RETRY_SECONDS,
        )

    def _pinned(self, version: str) -> Assignment:
        if self._reconciler.is_served(version):
            return Assignment(version, Arm.PINNED, 1.0)
        rollout = self._traffic.rollout
        wanted = {place.version for place in (rollout.stable, rollout.candidate) if place}
        if version not in wanted:
            raise _not_served()
        self._check_ready(version)
        raise _not_served()

    def _check_ready(self, version: str) -> None:
        status = self._reconciler.status(version)
        if status.state is State.READY:
            return
        if status.state is State.FAILED:
            text = f"the model could not be loaded: {status.reason}"
        else:
            text = f"the model is not ready yet ({status.reason}); try again in a moment"
        raise UnavailableError(text, reason="MODEL_NOT_READY", retry_seconds=RETRY_SECONDS)


def _not_served() -> NotFoundError:
    return NotFoundError(
        "this version is not served", field="pinned_version", limit="a version that is served"
    )
