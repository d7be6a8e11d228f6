"""Choice of the version for a request: the pinned version, or the assignment of the rollout."""

from services.chassis.errors import NotFoundError, UnavailableError
from services.contracts.chat import Arm
from services.generator.rollout.current_rollout import CurrentRollout
from services.generator.rollout.reconcile import Reconciler, State
from services.generator.rollout.rollout import Assignment

RETRY_SECONDS = 2.0
NO_MODEL = (
    "no model is installed; `make up` installs the small model, `make up MODEL=...` another one, "
    "and TW_GENERATOR_STABLE_DIRECTORY names a model directory"
)


class Router:
    """Chooses a version by the rollout and by the versions that are ready."""

    def __init__(self, current: CurrentRollout, reconciler: Reconciler) -> None:
        self._current = current
        self._reconciler = reconciler

    def choose(self, user_key: str, pinned_version: str) -> Assignment:
        """Return the assignment of a request.

        Raises:
            NotFoundError: the pinned version is not served.
            UnavailableError: no version is ready, reason MODEL_NOT_READY; the text names the next
                step.
        """
        if pinned_version:
            return self._pinned(pinned_version)
        rollout = self._current.rollout
        candidate = rollout.candidate
        candidate_ready = candidate is not None and self._reconciler.is_served(candidate.version)
        assignment = rollout.assign(
            user_key, self._current.now_us(), candidate_ready=candidate_ready
        )
        if assignment is None:
            raise UnavailableError(NO_MODEL, reason="MODEL_NOT_READY")
        self._check_ready(assignment.version)
        return assignment

    def lost_version_error(self, assignment: Assignment) -> NotFoundError | UnavailableError:
        """Return the error for a version missing in the model server, and load the version."""
        self._reconciler.reconcile_soon()
        if assignment.arm is Arm.PINNED:
            return _not_served_error()
        return UnavailableError(
            "the model server no longer holds this version and loads it again; try again shortly",
            reason="MODEL_NOT_READY",
            retry_seconds=RETRY_SECONDS,
        )

    def _pinned(self, version: str) -> Assignment:
        if self._reconciler.is_served(version):
            return Assignment(version, Arm.PINNED, 1.0)
        rollout = self._current.rollout
        rollout_versions = {
            deployment.version for deployment in (rollout.stable, rollout.candidate) if deployment
        }
        if version not in rollout_versions:
            raise _not_served_error()
        self._check_ready(version)
        raise _not_served_error()

    def _check_ready(self, version: str) -> None:
        status = self._reconciler.status(version)
        if status.state is State.READY:
            return
        if status.state is State.FAILED:
            text = f"the model could not be loaded: {status.reason}"
        else:
            text = f"the model is not ready yet ({status.reason}); try again shortly"
        raise UnavailableError(text, reason="MODEL_NOT_READY", retry_seconds=RETRY_SECONDS)


def _not_served_error() -> NotFoundError:
    return NotFoundError(
        "this version is not served", field="pinned_version", limit="a version that is served"
    )
