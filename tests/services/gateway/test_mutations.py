"""Mutated requests (S7) end with a clear status, never with a crash, UNKNOWN or INTERNAL."""

import asyncio
import json
import random
import re
import uuid
from collections import Counter
from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from thumbwheel.chat.v1 import chat_pb2, chat_pb2_grpc
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc
from thumbwheel.guardrail.v1 import guardrail_pb2
from thumbwheel.review.v1 import (
    appeal_pb2,
    appeal_pb2_grpc,
    arena_pb2,
    arena_pb2_grpc,
    review_pb2,
    review_pb2_grpc,
)
from thumbwheel.session.v1 import session_pb2

from services.chassis.admission import Admission
from services.chassis.calls.interceptor import CallInterceptor
from services.chassis.settings import ServiceSettings
from services.contracts.chat import FinishReason, Role
from services.gateway.access import access_check, with_known_fields
from services.gateway.feedback import Feedback, RatedMessage
from services.gateway.identity.authentication import ApiKeys, Authenticator, mint
from services.gateway.identity.credential import ALL_SCOPES
from services.gateway.identity.end_users import EndUsers
from services.gateway.own_data import OwnData
from services.gateway.peers.review import ReviewPeer
from services.gateway.peers.session import ConversationsPeer
from services.gateway.reviews import ReviewTexts
from services.gateway.servicer import (
    AppealServicer,
    ArenaServicer,
    ChatServicer,
    FeedbackServicer,
    ReviewServicer,
)
from services.gateway.turns.turn import Turn
from services.gateway.turns.turns import TurnLimits, Turns
from tests.services.gateway.calls import single_replica
from tests.services.gateway.gateway_under_test import ADA, PRINCIPAL_KEY, GatewayUnderTest
from tests.services.gateway.keys import CountingStore
from tests.services.gateway.mutations import UUID, mutants
from tests.services.gateway.valid_calls import METHODS, VALID

SEED = 7
HERE, OVER_THE_WIRE = 500, 30
MANY = 1_000_000 // len(METHODS)
ALLOWED = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
}
INTERNAL_NAMES = re.compile(
    r"services|thumbwheel\.|pb2|google\.|Traceback|0x[0-9a-f]{6}|object at"
    r"|Error\b|\.py\b|/home|grpc"
)


class Refused(Exception):
    """Exception raised by `abort`."""


class Context:
    """Minimal context of a gRPC call with one request."""

    def __init__(self, key: str, request: Any) -> None:
        self._request = request
        self._metadata = (("authorization", f"Bearer {key}"),)
        self.ended = ("OK", "")

    def invocation_metadata(self) -> Any:
        return self._metadata

    def time_remaining(self) -> float:
        return 60.0

    async def read(self) -> Any:
        return self._request

    async def write(self, response: Any) -> None:
        """Accept a response of a stream."""

    async def abort(self, code: grpc.StatusCode, details: str, trailing: Any) -> None:
        self.ended = (code.name, details)
        raise Refused


class Behind:
    """Fakes of all backends in this process. Every requested object exists."""

    async def rated_message(self, message_id: str) -> RatedMessage:
        return RatedMessage("conversation", Role.ASSISTANT, "v1", "stable", True)

    async def record(self, event: events_pb2.FeedbackEvent) -> feedback_pb2.Durability.ValueType:
        return feedback_pb2.DURABILITY_SPOOL

    async def check_written(self, text: str) -> guardrail_pb2.CheckOutputResponse:
        verdict = guardrail_pb2.Verdict(action=guardrail_pb2.ACTION_ALLOW)
        return guardrail_pb2.CheckOutputResponse(verdict=verdict)

    async def consent(self) -> feedback_pb2.Consent:
        return feedback_pb2.Consent(training=True)

    async def set_consent(self, *, training: bool) -> feedback_pb2.Consent:
        return feedback_pb2.Consent(training=training)

    async def erase_user(self) -> int:
        return 0

    async def erase_principal(self) -> feedback_pb2.Erasure:
        return await self.erasure(UUID)

    async def erasure(self, erasure_id: str) -> feedback_pb2.Erasure:
        return feedback_pb2.Erasure(erasure_id=erasure_id)

    async def drop_tenant(self, tenant: str) -> None:
        """Accept a removal of cached answers."""

    async def current_feedback(self, message_ids: Any) -> Any:
        return feedback_pb2.GetThumbsResponse()

    def __getattr__(self, method: str) -> Any:
        async def answer(request: Any, timeout: float, metadata: Any) -> Any:
            name = f"{method}Response"
            packages = (session_pb2, appeal_pb2, arena_pb2, review_pb2)
            return next(getattr(each, name) for each in packages if hasattr(each, name))()

        return answer


async def _instant(turn: Turn) -> None:
    turn.begin(str(uuid.uuid4()))
    started = chat_pb2.Started(conversation_id="conversation", user_message_id="question")
    turn.publish(chat_pb2.ChatEvent(started=started))
    turn.complete(FinishReason.STOP)


class Handlers:
    """The public services with the wrappers of the chassis, without sockets."""

    def __init__(self) -> None:
        self.key, stored = mint(ADA, ALL_SCOPES)
        authenticator = Authenticator(ApiKeys(CountingStore(stored), 60), None)
        behind: Any = Behind()
        shared_state = single_replica()
        turns = Turns(
            _instant, TurnLimits(10, 0.0, 1), shared_state, Admission("turns", 500, 500, 1.0)
        )
        chat = ChatServicer(turns, behind, ConversationsPeer(behind, behind, 5))
        said = FeedbackServicer(
            Feedback(behind, behind, behind, shared_state.quotas, PRINCIPAL_KEY),
            OwnData(turns, behind, behind, behind, shared_state.quotas),
            behind,
        )
        chat_service = chat_pb2.DESCRIPTOR.services_by_name["ChatService"]
        peer = ReviewPeer(behind, behind, behind, behind, 5)
        appeals = AppealServicer(shared_state.quotas, peer)
        appeal_service = appeal_pb2.DESCRIPTOR.services_by_name["AppealService"]
        arena = ArenaServicer(peer)
        reviews = ReviewServicer(ReviewTexts(behind, shared_state.quotas), peer)
        feedback_service = feedback_pb2.DESCRIPTOR.services_by_name["FeedbackService"]
        arena_service = arena_pb2.DESCRIPTOR.services_by_name["ArenaService"]
        review_service = review_pb2.DESCRIPTOR.services_by_name["ReviewService"]
        self._found: dict[str, Any] = {}
        check = access_check(authenticator, EndUsers(PRINCIPAL_KEY), shared_state.quotas)
        self._authorize = {
            each.full_name: check
            for each in (
                chat_service,
                feedback_service,
                arena_service,
                appeal_service,
                review_service,
            )
        }
        chat_pb2_grpc.add_ChatServiceServicer_to_server(with_known_fields(chat_service, chat), self)  # type: ignore[arg-type]
        feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(
            with_known_fields(feedback_service, said), self
        )  # type: ignore[arg-type]
        arena_pb2_grpc.add_ArenaServiceServicer_to_server(
            with_known_fields(arena_service, arena), self
        )  # type: ignore[arg-type]
        appeal_pb2_grpc.add_AppealServiceServicer_to_server(
            with_known_fields(appeal_service, appeals), self
        )  # type: ignore[arg-type]
        review_pb2_grpc.add_ReviewServiceServicer_to_server(
            with_known_fields(review_service, reviews), self
        )  # type: ignore[arg-type]

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Collect handlers like a gRPC server."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """Collect handlers like a gRPC server."""
        self._found |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    async def wrapped(self, method: MethodDescriptor) -> Any:
        """Return the handler of a method, as called by the server."""
        path = f"/{method.containing_service.full_name}/{method.name}"

        async def found(details: Any) -> Any:
            return self._found[path]

        details: Any = type("Details", (), {"method": path})
        around = CallInterceptor(
            ServiceSettings(port=0),
            Admission("server", 64, 64, 1.0),
            None,
            authorize=self._authorize,
            secure=False,
        )
        return await around.intercept_service(found, details)

    async def call(self, handler: Any, data: bytes) -> tuple[str, str]:
        """Call a handler. Returns status and text."""
        context = Context(self.key, handler.request_deserializer(data))
        # In a task of its own, as in grpc.aio.
        behaviour = handler.stream_stream or handler.stream_unary
        with suppress(Refused):
            await asyncio.create_task(behaviour(None, context))
        return context.ended


async def _try(method: MethodDescriptor, count: int) -> Counter[str]:
    handlers = Handlers()
    handler = await handlers.wrapped(method)
    ends: Counter[str] = Counter()
    for number, data in enumerate(mutants(_right(method), SEED, count)):
        code, text = await handlers.call(handler, data)
        assert code in ALLOWED, (number, code, text)
        assert not INTERNAL_NAMES.search(text), (number, text)
        ends[code] += 1
        if not number % 1_000:
            await asyncio.sleep(0)
    return ends


def _right(method: MethodDescriptor) -> Any:
    """Return a valid request."""
    message = GetMessageClass(method.input_type)()
    for field in method.input_type.fields:
        if (
            field.name in ("message_id", "conversation_id", "erasure_id", "battle_id", "item_id")
            and method.name != "SendMessage"
        ):
            setattr(message, field.name, UUID)
    return json_format.ParseDict(VALID.get(method.name, {}), message)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_mutated_requests_end_with_a_clear_status(method: MethodDescriptor) -> None:
    ends = await _try(method, HERE)
    # Accepted and rejected mutants must both occur, or the mutations would be pointless. No turn is
    # recorded here, so none can be resumed.
    assert ends["NOT_FOUND" if method.name == "ResumeMessage" else "OK"] > HERE / 20
    assert ends["INVALID_ARGUMENT"] > HERE / 20


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_a_million_mutated_requests_end_with_a_clear_status(
    method: MethodDescriptor,
) -> None:
    ends = await _try(method, MANY)
    assert ends.total() == MANY


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_mutated_bytes_on_the_wire_keep_the_connection_alive(
    gateway: GatewayUnderTest, method: MethodDescriptor
) -> None:
    channel: Any = gateway.channel
    path = f"/{method.containing_service.full_name}/{method.name}"
    for number, data in enumerate(mutants(_right(method), SEED + 1, OVER_THE_WIRE)):
        try:
            if method.server_streaming:
                async for _ in channel.unary_stream(path)(
                    data, timeout=30, metadata=gateway.metadata()
                ):
                    pass
            else:
                await channel.unary_unary(path)(data, timeout=30, metadata=gateway.metadata())
        except grpc.aio.AioRpcError as error:
            assert error.code().name in ALLOWED, (number, error)
            assert not INTERNAL_NAMES.search(error.details() or ""), (number, error)
    assert await gateway.ask()


COMPLETION = {
    "model": "thumbwheel",
    "messages": [{"role": "user", "content": "hello"}],
    "temperature": 0.5,
}
BODIES = {
    "/api/messages": VALID["SendMessage"],
    "/api/feedback": {**VALID["SubmitFeedback"], "messageId": UUID},
    "/v1/chat/completions": COMPLETION,
}


@pytest.mark.parametrize("path", BODIES)
async def test_mutated_http_bodies_end_with_a_clear_status(
    gateway: GatewayUnderTest, path: str
) -> None:
    randomness, statuses = random.Random(SEED), Counter[int]()
    right = json.dumps(BODIES[path])
    for number in range(2 * OVER_THE_WIRE):
        body = _mutated_json(right, randomness)
        async with gateway.http.post(
            gateway.url + path, data=body, headers=gateway.headers()
        ) as response:
            text = await response.text()
        assert response.status in (200, 400, 404, 409, 413), (number, body, text)
        if response.status != 200:
            assert not INTERNAL_NAMES.search(json.loads(text)["error"]["message"]), (
                number,
                body,
                text,
            )
        statuses[response.status] += 1
    assert statuses[400] > OVER_THE_WIRE / 2


def _mutated_json(right: str, randomness: random.Random) -> bytes:
    data = right.encode()
    for _ in range(randomness.randint(1, 3)):
        at, end = sorted((randomness.randrange(len(data) + 1), randomness.randrange(len(data) + 1)))
        match randomness.randrange(4):
            case 0:
                data = data[:at] + randomness.choice(JSON_PARTS) + data[at:]
            case 1:
                data = data[:at] + data[min(end, at + 8) :]
            case 2:
                data = data[:end] + data[at:]
            case _:
                data = data[:at] + bytes([randomness.randrange(256)]) + data[at + 1 :]
    return data


JSON_PARTS = (
    b"null",
    b"1e999",
    b"-0",
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b'"\\ud800"',
    b"\x00",
    b"NaN",
    b"[[[[",
    b'{"a":',
)
