"""Watch for halts of the rollout by an operator, which interrupt the run of this process."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

from training.errors import UnavailableError
from training.evaluation.canary_run import RolloutControl

HALT_POLL_SECONDS = 5.0


class HaltWatch:
    """Stops this process's run when an operator halts the rollout; a context manager.

    The run gets SIGTERM, as from a cluster: a stage stops after its current step, which is saved.

    Args:
        rollout: client used by no other thread.
        in_canary: returns True during a canary, which ends with a result of its own.
        say: shows a line to the operator when a halt is seen, or if the rollout cannot be read for
            another reason than an unavailable service.
    """

    def __init__(
        self,
        rollout: RolloutControl,
        in_canary: Callable[[], bool],
        say: Callable[[str], None],
        poll_seconds: float = HALT_POLL_SECONDS,
    ) -> None:
        self._rollout, self._in_canary, self._poll_seconds = rollout, in_canary, poll_seconds
        self._say = say
        self._ended = threading.Event()
        # Without it a signal could be sent after `__exit__`, when another run or none is executed.
        self._sending = threading.Lock()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.reason: str | None = None

    def __enter__(self) -> HaltWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._sending:
            self._ended.set()
        self._thread.join(1.0)

    def _watch(self) -> None:
        said = ""
        while not self._ended.wait(self._poll_seconds):
            try:
                reason = self._rollout.view().halt
                is_halted = reason is not None and not self._in_canary()
            except UnavailableError:
                continue  # without the generator no promotion is possible
            except Exception as error:  # noqa: BLE001 - an ended thread would ignore every halt
                if (text := f"halts cannot be read: {type(error).__name__}: {error}") != said:
                    self._say(text)
                    said = text
                continue
            if is_halted and self._interrupt(reason):
                return

    def _interrupt(self, reason: str | None) -> bool:
        """Send SIGTERM to the main thread, whose system call is interrupted, unless ended."""
        with self._sending:
            if self._ended.is_set():
                return False
            self.reason = reason
            # Before the signal, because a start of Ray or a long step ends much later.
            self._say(
                f"halted by an operator: {reason}; the run stops after its current step, which is "
                "saved"
            )
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            return True
