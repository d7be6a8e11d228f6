"""Durations of the stages of a turn, up to the first text."""

import time

from services.gateway.metrics import ADDED_SECONDS, STAGE_SECONDS, TTFT_SECONDS


class TurnClock:
    """Measures one turn from the time of acceptance."""

    def __init__(self, accepted_at: float) -> None:
        self._accepted_at = self._last = accepted_at
        self._running = True

    def passed(self, stage: str) -> None:
        """Record the duration of the stage that ends now."""
        now = time.monotonic()
        STAGE_SECONDS.labels(stage).observe(now - self._last)
        self._last = now

    def first_text(self, generated_at: float | None) -> None:
        """Record the release of the first text. Later calls have no effect.

        Args:
            generated_at: Monotonic time of the generator's first text, None before.
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
