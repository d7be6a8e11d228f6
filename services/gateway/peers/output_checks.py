"""Checks of answers on their way to the guard: what an answer begins or ends with goes at once, the
rest gathers for a moment.

A call costs both sides a millisecond of processor time, a judgement a twentieth of that: with two
hundred answers at once, calls of one check each were the largest part of the chat path.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from thumbwheel.guardrail.v1 import guardrail_pb2

from services.chassis.errors import UnavailableError

# Between two calls, but for those that somebody waits for. One answer alone asks more seldom than
# that, and never notices.
GATHER_SECONDS = 0.025
# Limits of a call: the guard's, and what it judges without a thread.
MOST_CHECKS, MOST_CHARACTERS = 64, 8_192

Check = guardrail_pb2.CheckOutputRequest
Result = guardrail_pb2.CheckOutputResponse


@dataclass(frozen=True)
class _Asked:
    check: Check
    result: "asyncio.Future[Result]"
    context: contextvars.Context

    @property
    def characters(self) -> int:
        return len(self.check.prompt) + len(self.check.pending)

    @property
    def urgent(self) -> bool:
        """The first text is what people wait for, and after the last nothing comes; between the two
        they read.
        """
        return self.check.final or not self.check.released_tail


class OutputChecks:
    """Gathers what many turns ask."""

    def __init__(
        self,
        check_one: Callable[[Check], Awaitable[Result]],
        check_many: Callable[[Sequence[Check]], Awaitable[Sequence[Result]]],
    ) -> None:
        self._check_one, self._check_many = check_one, check_many
        self._waiting: deque[_Asked] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._sent_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    async def check(self, check: Check) -> Result:
        """The guard's decision. Raises: ServiceError, that of the call in which it was asked."""
        loop = asyncio.get_running_loop()
        asked = _Asked(check, loop.create_future(), contextvars.copy_context())
        self._waiting.append(asked)
        wait = self._sent_at + GATHER_SECONDS - loop.time()
        if asked.urgent or wait <= 0:
            self._send()
        elif self._timer is None:
            self._timer = loop.call_later(wait, self._send)
        return await asked.result

    def _send(self) -> None:
        """All that waits, in as few calls as the guard allows."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._sent_at = asyncio.get_running_loop().time()
        while together := self._take():
            # Alone it has its turn's deadline and trace; in company it is nobody's.
            context = together[0].context if len(together) == 1 else contextvars.Context()
            call = asyncio.create_task(self._ask(together), context=context)
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    def _take(self) -> list[_Asked]:
        """As many as may go together, in order; at least one. Those whose turn has ended meanwhile
        are left out.
        """
        together: list[_Asked] = []
        characters = 0
        while self._waiting and len(together) < MOST_CHECKS:
            asked = self._waiting[0]
            if not asked.result.done():
                characters += asked.characters
                if together and characters > MOST_CHARACTERS:
                    break
                together.append(asked)
            self._waiting.popleft()
        return together

    async def _ask(self, together: Sequence[_Asked]) -> None:
        failure: Exception | None = None
        results: Sequence[Result] = ()
        try:
            results = await self._results([asked.check for asked in together])
        except Exception as error:  # noqa: BLE001 - raised again where each waits
            failure = error
        for number, asked in enumerate(together):
            if asked.result.done():
                continue
            if failure:
                asked.result.set_exception(failure)
            else:
                asked.result.set_result(results[number])

    async def _results(self, checks: Sequence[Check]) -> Sequence[Result]:
        if len(checks) == 1:
            return [await self._check_one(checks[0])]
        results = await self._check_many(checks)
        if len(results) != len(checks):
            raise UnavailableError(
                "the guardrail service left a check out", reason="GUARDRAIL_UNAVAILABLE"
            )
        return results
