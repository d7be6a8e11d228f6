"""How long the stages of a turn take, up to its first text."""

import time

from services.gateway.metrics import ADDED_SECONDS, STAGE_SECONDS, TTFT_SECONDS


class TurnClock:
    """Measures one turn from when it was accepted."""

    def __init__(self, accepted_at: float) -> None:
        self._accepted_at = self._last = accepted_at
        self._running = True

    def passed(self, stage: str) -> None:
        """The stage that ran until now is over."""
        now = time.monotonic()
        STAGE_SECONDS.labels(stage).observe(now - self._last)
        self._last = now

    def first_text(self, generated_at: float | None) -> None:
        """The first text was released; `generated_at` is when the generator sent its first. Later
        calls change nothing.
        """
        if not self._running or generated_at is None:
            return
        self._running = False
        now = time.monotonic()
        generate_seconds = generated_at - self._last
        STAGE_SECONDS.labels("generate").observe(generate_seconds)
        STAGE_SECONDS.labels("guard_output").observe(now - generated_at)
        TTFT_SECONDS.observe(now - self._accepted_at)
        ADDED_SECONDS.observe(now - self._accepted_at - generate_seconds)
