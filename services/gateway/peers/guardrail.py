"""Client of the guardrail service, with batching of output checks.

A call costs 1 ms of processor time on both sides, a check a twentieth of it. With 200 concurrent
answers, calls with single checks were the largest part of the chat path. First and last checks of
an answer are sent without delay.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.guardrail.v1 import guardrail_pb2, guardrail_pb2_grpc

from services.chassis.channel import call_unary
from services.chassis.errors import UnavailableError
from services.contracts.limits import MAX_OUTPUT_CHECKS
from services.contracts.wire import ACTIONS

PEER = "guardrail"
# Interval between two calls without urgent checks. A single answer has longer pauses anyway.
GATHER_SECONDS = 0.025
# Limit of the texts of several checks in one call.
MAX_CHARACTERS = 8_192

Check = guardrail_pb2.CheckOutputRequest
Result = guardrail_pb2.CheckOutputResponse


@dataclass(frozen=True)
class _PendingCheck:
    check: Check
    result: "asyncio.Future[Result]"
    context: contextvars.Context

    @property
    def characters(self) -> int:
        return len(self.check.prompt) + len(self.check.pending)

    @property
    def urgent(self) -> bool:
        """True for the first and the last check of an answer.

        Readers wait for the first text. After the last check nothing else follows.
        """
        return self.check.final or not self.check.released_tail


class OutputChecks:
    """Batches the checks of many turns."""

    def __init__(
        self,
        check_one: Callable[[Check], Awaitable[Result]],
        check_many: Callable[[Sequence[Check]], Awaitable[Sequence[Result]]],
    ) -> None:
        self._check_one, self._check_many = check_one, check_many
        self._waiting: deque[_PendingCheck] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._sent_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    async def check(self, check: Check) -> Result:
        """Return the guard's decision.

        Raises:
            ServiceError: The call with this check failed.
        """
        loop = asyncio.get_running_loop()
        pending = _PendingCheck(check, loop.create_future(), contextvars.copy_context())
        self._waiting.append(pending)
        wait = self._sent_at + GATHER_SECONDS - loop.time()
        if pending.urgent or wait <= 0:
            self._send()
        elif self._timer is None:
            self._timer = loop.call_later(wait, self._send)
        return await pending.result

    def _send(self) -> None:
        """Send all waiting checks in as few calls as the guard allows."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._sent_at = asyncio.get_running_loop().time()
        while batch := self._next_batch():
            # A single check keeps the deadline and trace of its turn. A batch belongs to no single
            # turn.
            context = batch[0].context if len(batch) == 1 else contextvars.Context()
            call = asyncio.create_task(self._send_batch(batch), context=context)
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    def _next_batch(self) -> list[_PendingCheck]:
        """Return the next batch in order, at least one check, without the checks of ended turns."""
        batch: list[_PendingCheck] = []
        characters = 0
        while self._waiting and len(batch) < MAX_OUTPUT_CHECKS:
            pending = self._waiting[0]
            if not pending.result.done():
                characters += pending.characters
                if batch and characters > MAX_CHARACTERS:
                    break
                batch.append(pending)
            self._waiting.popleft()
        return batch

    async def _send_batch(self, batch: Sequence[_PendingCheck]) -> None:
        failure: Exception | None = None
        results: Sequence[Result] = ()
        try:
            checks = [pending.check for pending in batch]
            # A single check uses the smaller RPC, with the deadline and trace of its turn.
            if len(checks) == 1:
                results = [await self._check_one(checks[0])]
            else:
                results = await self._check_many(checks)
            if len(results) != len(checks):
                raise UnavailableError(
                    "the guardrail service returned too few results",
                    reason="GUARDRAIL_UNAVAILABLE",
                )
        except Exception as error:  # noqa: BLE001 - raised again where each waits
            failure = error
        for number, pending in enumerate(batch):
            # The turn was cancelled during the call.
            if pending.result.done():
                continue
            if failure:
                pending.result.set_exception(failure)
            else:
                pending.result.set_result(results[number])


class GuardrailPeer:
    """Checks inputs and outputs. A reply without a known action is an error."""

    def __init__(
        self, stub: guardrail_pb2_grpc.GuardrailServiceStub, within_seconds: float
    ) -> None:
        self._stub, self._within_seconds = stub, within_seconds
        self._outputs = OutputChecks(self._check_one, self._check_many)

    async def check_input(
        self, prompts: Iterable[str], history: Iterable[chat_pb2.HistoryMessage] = ()
    ) -> guardrail_pb2.CheckInputResponse:
        """Return the strictest verdict over texts of the user and those of a history.

        The history is that of a client that keeps its conversation. All its messages are judged in
        their roles, because the client wrote them all: earlier checks cannot be verified, and a
        model follows system and assistant messages as well.

        Raises:
            ServiceError: The guard failed. No answer may be generated.
        """
        judged = dict.fromkeys(
            (
                *((chat_pb2.ROLE_USER, text) for text in prompts),
                *((message.role, message.text) for message in history if message.text),
            )
        )
        request = guardrail_pb2.CheckInputRequest(
            texts=[text for _, text in judged], roles=[role for role, _ in judged]
        )
        response = await call_unary(
            PEER, self._stub.CheckInput, request, within_seconds=self._within_seconds
        )
        _require_verdict(response.verdict)
        return response

    async def check_output(
        self, prompt: str, released_tail: str, pending: str, *, final: bool
    ) -> Result:
        response = await self._outputs.check(
            Check(prompt=prompt, released_tail=released_tail, pending=pending, final=final)
        )
        _require_verdict(response.verdict)
        return response

    async def check_written(self, text: str) -> Result:
        # Not in a batch: answers must not wait for a text that a user chose.
        response = await self._check_one(
            Check(prompt=text, pending=text, final=True, written_by_user=True)
        )
        _require_verdict(response.verdict)
        return response

    async def _check_one(self, check: Check) -> Result:
        return await call_unary(
            PEER, self._stub.CheckOutput, check, within_seconds=self._within_seconds
        )

    async def _check_many(self, checks: Sequence[Check]) -> Sequence[Result]:
        request = guardrail_pb2.CheckOutputsRequest(checks=checks)
        response = await call_unary(
            PEER, self._stub.CheckOutputs, request, within_seconds=self._within_seconds
        )
        return response.results


def _require_verdict(verdict: guardrail_pb2.Verdict) -> None:
    if verdict.action not in ACTIONS:
        raise UnavailableError(
            "the guardrail service gave no verdict", reason="GUARDRAIL_UNAVAILABLE"
        )
