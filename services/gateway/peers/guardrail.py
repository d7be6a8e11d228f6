"""Client of the guardrail service."""

from collections.abc import Sequence

from thumbwheel.guardrail.v1 import guardrail_pb2, guardrail_pb2_grpc

from services.chassis.channel import call_unary
from services.chassis.errors import UnavailableError
from services.contracts.chat import Action
from services.contracts.wire import ACTIONS
from services.gateway.answering.guard import InputVerdict, OutputVerdict
from services.gateway.peers.output_checks import Check, OutputChecks, Result

PEER = "guardrail"


class GuardrailPeer:
    """Implements `guard.Guard`. A reply without a known action is an error."""

    def __init__(
        self, stub: guardrail_pb2_grpc.GuardrailServiceStub, within_seconds: float
    ) -> None:
        self._stub, self._within_seconds = stub, within_seconds
        self._outputs = OutputChecks(self._check_one, self._check_many)

    async def check_input(self, texts: tuple[str, ...]) -> InputVerdict:
        """Implement the method `Guard.check_input`."""
        request = guardrail_pb2.CheckInputRequest(texts=texts)
        response = await call_unary(
            PEER, self._stub.CheckInput, request, within_seconds=self._within_seconds
        )
        return InputVerdict(
            _action(response.verdict),
            response.verdict.category,
            response.verdict.policy_version,
            response.rejection_text,
        )

    async def check_output(
        self, prompt: str, released_tail: str, pending: str, *, final: bool
    ) -> OutputVerdict:
        """Implement the method `OutputGuard.check_output`."""
        response = await self._outputs.check(
            Check(prompt=prompt, released_tail=released_tail, pending=pending, final=final)
        )
        return OutputVerdict(
            _action(response.verdict),
            response.verdict.category,
            response.release,
            response.held_characters,
            response.rejection_text,
        )

    async def _check_one(self, check: Check) -> Result:
        result: Result = await call_unary(
            PEER, self._stub.CheckOutput, check, within_seconds=self._within_seconds
        )
        return result

    async def _check_many(self, checks: Sequence[Check]) -> Sequence[Result]:
        request = guardrail_pb2.CheckOutputsRequest(checks=checks)
        response = await call_unary(
            PEER, self._stub.CheckOutputs, request, within_seconds=self._within_seconds
        )
        results: Sequence[Result] = response.results
        return results


def _action(verdict: guardrail_pb2.Verdict) -> Action:
    if verdict.action not in ACTIONS:
        raise UnavailableError(
            "the guardrail service gave no verdict", reason="GUARDRAIL_UNAVAILABLE"
        )
    return ACTIONS[verdict.action]
