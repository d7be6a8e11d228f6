"""Servicer of GuardrailService: checks limits, calls the guard, converts verdicts.

Longer texts than INLINE_CHARACTERS and INLINE_PENDING_CHARACTERS, and prompts for the encoder, are
judged in one of two threads, until their call ends. Texts written by users, such as corrections,
have two threads of their own, so that no answer waits for them, and no user for many texts of
another.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from thumbwheel.guardrail.v1 import guardrail_pb2, guardrail_pb2_grpc

from services.chassis.identity import current_call
from services.chassis.threads import (
    AbandonedError,
    BoundedThreads,
    Checkpoint,
    OwnedThreads,
    no_checkpoint,
)
from services.contracts.chat import Action, Role
from services.contracts.limits import (
    MAX_HISTORY,
    MAX_OUTPUT_CHECKS,
    MAX_PENDING_CHARACTERS,
    MAX_REQUEST_CHARACTERS,
    MAX_TAIL_CHARACTERS,
    MAX_TEXT_CHARACTERS,
    field_error,
)
from services.contracts.wire import ACTION_NUMBERS, ROLES
from services.guardrail.guard import Guard
from services.guardrail.operator import OperatorStage, OperatorUnavailableError
from services.guardrail.operator_answers import Exchange
from services.guardrail.verdict import Verdict, strictest

NAME = "thumbwheel.guardrail.v1.GuardrailService"

# The texts of a history, the typed text and the enhanced text.
MAX_TEXTS = MAX_HISTORY + 2
# The texts of a request, and its message once more as enhanced.
MAX_CHECKED_CHARACTERS = MAX_REQUEST_CHARACTERS + 2 * MAX_TEXT_CHARACTERS
# For less work a thread costs more than the wait of the event loop.
INLINE_CHARACTERS = 8_192
# Pending text of the calls that are judged inline. Text of numbers, marks and line breaks takes up
# to 0.03 ms for a character (7 ms in all), ordinary text 0.001 ms (`benchmarks.guardrail`).
INLINE_PENDING_CHARACTERS = 256
# More threads only share the lock of the interpreter with the event loop.
THREADS = 2
WRITTEN_THREADS = 2
# Written texts of one user that wait for their predecessor.
MAX_WRITTEN_WAITING = 4

log = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")


class GuardrailServicer(guardrail_pb2_grpc.GuardrailServiceServicer):
    """Implementation of the service in proto/thumbwheel/guardrail/v1."""

    def __init__(self, guard: Guard, operator: OperatorStage | None = None) -> None:
        self._guard, self._operator = guard, operator
        # Common version of policy and weights, and of the operator's guard model.
        self._version = f"{guard.version}-{operator.version}" if operator else guard.version
        self._threads = BoundedThreads(THREADS, "guardrail")
        self._written = OwnedThreads(WRITTEN_THREADS, "guardrail-written", MAX_WRITTEN_WAITING)

    async def CheckInput(
        self, request: guardrail_pb2.CheckInputRequest, context: Any
    ) -> guardrail_pb2.CheckInputResponse:
        if not 1 <= len(request.texts) <= MAX_TEXTS:
            raise field_error("texts", f"1 to {MAX_TEXTS} texts")
        texts = list(request.texts)
        for text in texts:
            if not text:
                raise field_error("texts", "at least 1 character")
            _check_length("texts", text, MAX_REQUEST_CHARACTERS)
        characters = sum(map(len, texts))
        if characters > MAX_CHECKED_CHARACTERS:
            raise field_error(
                "texts",
                f"at most {MAX_CHECKED_CHARACTERS:,} characters in all texts",
                f"{characters:,}",
            )
        if request.roles and len(request.roles) != len(texts):
            raise field_error(
                "roles", f"none, or one for each of the {len(texts)} texts", f"{len(request.roles)}"
            )
        judged: list[str] = []
        instructions: list[str] = []
        for number, text in enumerate(texts):
            role = ROLES.get(request.roles[number]) if request.roles else Role.USER
            if role is None:
                raise field_error(f"roles[{number}]", "system, user or assistant")
            (instructions if role is Role.SYSTEM else judged).append(text)
        verdict = await self._judge(
            judged,
            [],
            lambda checkpoint: self._guard.judge_input(
                judged, checkpoint, instructions=instructions
            ),
            instructions,
        )
        verdict = await self._with_operator(verdict, [Exchange(text) for text in texts])
        return guardrail_pb2.CheckInputResponse(
            verdict=self._message(verdict),
            rejection_text=self._guard.policy.rejection_text(verdict),
        )

    async def CheckOutput(
        self, request: guardrail_pb2.CheckOutputRequest, context: Any
    ) -> guardrail_pb2.CheckOutputResponse:
        _check_part(request)
        if request.written_by_user:
            response = await self._written.run_for(
                current_call().caller.key, lambda checkpoint: self._output(request, checkpoint)
            )
        else:
            response = await self._judge(
                [request.prompt],
                [request.pending],
                lambda checkpoint: self._output(request, checkpoint),
            )
        return await self._output_with_operator(request, response)

    async def CheckOutputs(
        self, request: guardrail_pb2.CheckOutputsRequest, context: Any
    ) -> guardrail_pb2.CheckOutputsResponse:
        if not 1 <= len(request.checks) <= MAX_OUTPUT_CHECKS:
            raise field_error("checks", f"1 to {MAX_OUTPUT_CHECKS} parts")
        checks = list(request.checks)
        for check in checks:
            _check_part(check)
            if check.written_by_user:
                raise field_error("written_by_user", "only in CheckOutput")
        results = await self._judge(
            [check.prompt for check in checks],
            [check.pending for check in checks],
            lambda checkpoint: [self._output_or_empty(check, checkpoint) for check in checks],
        )
        if self._operator:
            results = await asyncio.gather(
                *map(self._output_with_operator_or_empty, checks, results)
            )
        return guardrail_pb2.CheckOutputsResponse(results=results)

    def _output(
        self, request: guardrail_pb2.CheckOutputRequest, checkpoint: Checkpoint
    ) -> guardrail_pb2.CheckOutputResponse:
        release = self._guard.judge_output(
            request.prompt, request.released_tail, request.pending, request.final, checkpoint
        )
        return guardrail_pb2.CheckOutputResponse(
            verdict=self._message(release.verdict),
            release=release.text,
            held_characters=release.held_characters,
            rejection_text=self._guard.policy.rejection_text(release.verdict),
        )

    def _output_or_empty(
        self, request: guardrail_pb2.CheckOutputRequest, checkpoint: Checkpoint
    ) -> guardrail_pb2.CheckOutputResponse:
        """Judge one part; a failure gives an empty response and does not affect other parts."""
        checkpoint()
        try:
            return self._output(request, checkpoint)
        except AbandonedError:
            raise
        except Exception:
            log.exception("output check failed")
            return guardrail_pb2.CheckOutputResponse()

    async def _with_operator(self, verdict: Verdict, exchanges: Sequence[Exchange]) -> Verdict:
        """Return the verdict, or a block by the operator's guard model on an allowed text.

        Raises:
            OperatorUnavailableError: the model gave no verdict, and failures are not skipped.
        """
        if self._operator is None or verdict.action is Action.BLOCK:
            return verdict
        return strictest((verdict, await self._operator.judge(exchanges)))

    async def _output_with_operator(
        self,
        request: guardrail_pb2.CheckOutputRequest,
        response: guardrail_pb2.CheckOutputResponse,
    ) -> guardrail_pb2.CheckOutputResponse:
        """Return the response, or a block by the operator's guard model on the text to release.

        A text written by a user is judged as a request.

        Raises:
            OperatorUnavailableError: as `_with_operator`.
        """
        operator, is_written = self._operator, request.written_by_user
        if operator is None or not response.release:
            return response
        if not (is_written or operator.judges_answers):
            return response
        answer = Exchange(request.prompt, request.released_tail + response.release)
        exchange = Exchange(request.pending) if is_written else answer
        verdict = await operator.judge([exchange])
        if verdict.action is not Action.BLOCK:
            return response
        return guardrail_pb2.CheckOutputResponse(
            verdict=self._message(verdict),
            rejection_text=self._guard.policy.rejection_text(verdict),
        )

    async def _output_with_operator_or_empty(
        self,
        request: guardrail_pb2.CheckOutputRequest,
        response: guardrail_pb2.CheckOutputResponse,
    ) -> guardrail_pb2.CheckOutputResponse:
        """Judge one part; without a verdict the response is empty, as of `_output_or_empty`."""
        try:
            return await self._output_with_operator(request, response)
        except OperatorUnavailableError:
            return guardrail_pb2.CheckOutputResponse()

    async def _judge(
        self,
        prompts: Sequence[str],
        pending: Iterable[str],
        work: Callable[[Checkpoint], ResultT],
        instructions: Sequence[str] = (),
    ) -> ResultT:
        """Do the work for prompts and pending texts of answers, inline if it is short."""
        pending_characters = sum(map(len, pending))
        characters = sum(map(len, (*prompts, *instructions))) + pending_characters
        is_short = (
            characters <= INLINE_CHARACTERS and pending_characters <= INLINE_PENDING_CHARACTERS
        )
        if is_short and not (
            any(map(self._guard.is_unsure, prompts))
            or any(self._guard.is_unsure(text, is_instruction=True) for text in instructions)
        ):
            return work(no_checkpoint)
        return await self._threads.run(work)

    def _message(self, verdict: Verdict) -> guardrail_pb2.Verdict:
        return guardrail_pb2.Verdict(
            action=ACTION_NUMBERS[verdict.action],
            category=verdict.category,
            score=verdict.score,
            policy_version=self._version,
        )


def _check_part(request: guardrail_pb2.CheckOutputRequest) -> None:
    _check_length("prompt", request.prompt, MAX_REQUEST_CHARACTERS)
    _check_length("released_tail", request.released_tail, MAX_TAIL_CHARACTERS)
    _check_length("pending", request.pending, MAX_PENDING_CHARACTERS)


def _check_length(field: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise field_error(field, f"at most {limit:,} characters", f"{len(text):,}")
