"""What the launcher writes into the loop's status.json, so that page and metrics tell of a turn
that does not even start.

It writes under the loop's own lock: a turn that runs holds it, so that nothing of it is ever
overwritten.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from training.runs import LoopRunningError, exclusive
from training.status import FAILED, STOPPED, Status, Step, StepState, now, read_status, write_status

STEP = "start"
END_PATIENCE_SECONDS = 60.0  # until a turn that was told to stop has let go of the lock


class Notice:
    """The notices about one turn. `name` is shown where the page has the version that a turn makes."""

    def __init__(self, directory: Path, name: str, recipe: str) -> None:
        self._directory, self._name, self._recipe = directory, name, recipe

    def waiting(self, text: str) -> None:
        """It has not begun; a turn that was cut off and waits to be taken up again keeps its steps."""
        # Whoever holds the lock tells more than this.
        with suppress(LoopRunningError), exclusive(self._directory, "launcher"):
            status = read_status(self._directory)
            if status is None or status.result is not None or status.run == self._name:
                status = self._own(status, Step(STEP, StepState.RUNNING, now(), detail=text))
            else:
                status.reason = text
            self._write(status)

    def failed(self, reason: str) -> bool:
        """It has ended badly. A result that the turn itself wrote stands, except that it was
        stopped: now it is known why.

        False: somebody holds the lock, so another turn runs and tells of itself.
        """
        try:
            with exclusive(self._directory, "launcher", END_PATIENCE_SECONDS):
                status = read_status(self._directory) or self._own(
                    None, Step(STEP, StepState.RUNNING, now())
                )
                if status.result in (None, STOPPED):
                    steps = [_broken(step) for step in status.steps]
                    self._write(replace(status, steps=steps, step="", result=FAILED, reason=reason))
        except LoopRunningError:
            return False
        return True

    def _own(self, last: Status | None, step: Step) -> Status:
        """In place of the last turn's, with what the page needs from one turn to the next."""
        status = Status(self._name, self._recipe, now(), STEP, [step])
        if last is not None:
            status.erased_versions, status.needed_thumbs = last.erased_versions, last.needed_thumbs
            status.learned_until = last.learned_until
        return status

    def _write(self, status: Status) -> None:
        status.updated = now()
        write_status(self._directory, status)


def _broken(step: Step) -> Step:
    return (
        replace(step, state=StepState.FAILED, ended=now())
        if step.state is StepState.RUNNING
        else step
    )
