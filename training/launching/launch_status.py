"""Status of a launch in status.json, so that page and metrics show a run before its start.

The launcher writes under the lock of the loop, which an active run holds, so a run's status is
never overwritten.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from training.runs import LoopRunningError, exclusive
from training.status import FAILED, STOPPED, Status, Step, StepState, now, read_status, write_status

STEP = "start"
LOCK_TIMEOUT_SECONDS = 60.0  # for a stopped run to release the lock


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
