"""Event loop in simulated time, for exact and fast tests of timeouts and pauses."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class SimulatedTime(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer without waiting."""

    def __init__(self) -> None:
        self._now = 0.0
        selector = selectors.DefaultSelector()
        self._poll = selector.select
        selector.select = self._jump  # type: ignore[method-assign]
        super().__init__(selector)

    def time(self) -> float:
        return self._now

    def _jump(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._now += timeout or 0.0
        return self._poll(0)


def simulate(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end in simulated time."""
    with asyncio.Runner(loop_factory=SimulatedTime) as runner:
        runner.run(work)
