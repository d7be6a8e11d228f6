"""Translates between the protocol and the policy. Texts beyond a few thousand characters are judged in a thread."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from thumbwheel.guardrail.v1 import guardrail_pb2, guardrail_pb2_grpc

from services.chassis.errors import InvalidArgumentError
from services.guardrail.policy import Policy
from services.guardrail.rejection import rejection_text
from services.guardrail.verdict import Action, Verdict

NAME = "thumbwheel.guardrail.v1.GuardrailService"

MAX_TEXTS = 202
MAX_TEXT_CHARACTERS = 131_072
MAX_TAIL_CHARACTERS = 2_000
MAX_PENDING_CHARACTERS = 32_768
# About 5 ms of work: below, the hop to a thread costs more than the loop would wait.
INLINE_CHARACTERS = 8_192

ACTIONS = {
    Action.ALLOW: guardrail_pb2.ACTION_ALLOW,
    Action.REDACT: guardrail_pb2.ACTION_REDACT,
    Action.BLOCK: guardrail_pb2.ACTION_BLOCK,
}

ResultT = TypeVar("ResultT")


class GuardrailServicer(guardrail_pb2_grpc.GuardrailServiceServicer):
    """Both methods check the limits of the protocol, ask the policy, and put its answer in a message."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    async def CheckInput(
        self, request: guardrail_pb2.CheckInputRequest, context: Any
    ) -> guardrail_pb2.CheckInputResponse:
        if not 1 <= len(request.texts) <= MAX_TEXTS:
            raise InvalidArgumentError(
                f"texts holds {len(request.texts)} texts", field="texts", limit=f"1 to {MAX_TEXTS} texts"
            )
        texts = list(request.texts)
        for text in texts:
            if not text:
                raise InvalidArgumentError("a text is empty", field="texts", limit="at least 1 character")
            _check_length("texts", text, MAX_TEXT_CHARACTERS)
        verdict = await _judge(sum(map(len, texts)), lambda: self._policy.judge_input(texts))
        return guardrail_pb2.CheckInputResponse(verdict=self._message(verdict), rejection_text=_rejection(verdict))

    async def CheckOutput(
        self, request: guardrail_pb2.CheckOutputRequest, context: Any
    ) -> guardrail_pb2.CheckOutputResponse:
        _check_length("prompt", request.prompt, MAX_TEXT_CHARACTERS)
        _check_length("released_tail", request.released_tail, MAX_TAIL_CHARACTERS)
        _check_length("pending", request.pending, MAX_PENDING_CHARACTERS)
        release = await _judge(
            len(request.prompt) + len(request.pending),
            lambda: self._policy.judge_output(request.prompt, request.released_tail, request.pending, request.final),
        )
        return guardrail_pb2.CheckOutputResponse(
            verdict=self._message(release.verdict),
            release=release.text,
            held_characters=release.held_characters,
            rejection_text=_rejection(release.verdict),
        )

    def _message(self, verdict: Verdict) -> guardrail_pb2.Verdict:
        return guardrail_pb2.Verdict(
            action=ACTIONS[verdict.action],
            category=verdict.category,
            score=verdict.score,
            policy_version=self._policy.version,
        )


async def _judge(characters: int, work: Callable[[], ResultT]) -> ResultT:
    return work() if characters <= INLINE_CHARACTERS else await asyncio.to_thread(work)


def _check_length(field: str, text: str, limit: int) -> None:
    if len(text) > limit:
        raise InvalidArgumentError(
            f"{field} has {len(text)} characters", field=field, limit=f"at most {limit:,} characters"
        )


def _rejection(verdict: Verdict) -> str:
    return rejection_text(verdict.category) if verdict.action is Action.BLOCK else ""
