"""Deny by default: every method of every descriptor and every route is tried without a key."""

import re
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from starlette.routing import Mount, Route
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import feedback_pb2
from thumbwheel.generator.v1 import generator_pb2

from services.chassis.errors import InvalidArgumentError, PermissionDeniedError
from services.gateway.access import RULES, Access, guarded, refuse_unknown_fields
from services.gateway.http.app import make_app
from services.gateway.http.door import Door
from services.gateway.http.loop_files import LoopFiles
from services.gateway.http.openai import OpenAiApi
from services.gateway.http.page import PageApi
from services.gateway.keys import Keys
from tests.services.gateway.house import House
from tests.services.gateway.test_keys import CountingStore

pytestmark = pytest.mark.asyncio(loop_scope="module")
PUBLIC_SERVICES = [
    chat_pb2.DESCRIPTOR.services_by_name["ChatService"],
    feedback_pb2.DESCRIPTOR.services_by_name["FeedbackService"],
]
METHODS = [method for service in PUBLIC_SERVICES for method in service.methods]
# The only ones that say something to a stranger.
PUBLIC_PATHS = {"/health", "/metrics"}
WRONG_KEYS = [None, "Bearer tw_" + "A" * 43, "Bearer "]


def _routes() -> list[tuple[str, str]]:
    anything: Any = SimpleNamespace()
    door = Door(Keys(CountingStore(), 0), 1)
    chat: Any = anything
    routes = [
        *OpenAiApi(anything, anything).routes(door),
        *PageApi(chat, anything, anything).routes(door),
        *LoopFiles(anything).routes(door),
    ]
    app = make_app(door, routes, None, with_metrics=True)
    assert not [route for route in app.routes if isinstance(route, Mount)]
    paths = [route for route in app.routes if isinstance(route, Route)]
    return [(method, route.path) for route in paths for method in sorted(route.methods or ()) if method != "HEAD"]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_every_method_asks_for_a_key(shared_gateway: House, method: MethodDescriptor) -> None:
    path = f"/{method.containing_service.full_name}/{method.name}"
    channel: Any = shared_gateway.channel
    request = GetMessageClass(method.input_type)().SerializeToString()
    for key in WRONG_KEYS:
        metadata = (("authorization", key),) if key else (("x-tw-tenant", "acme"), ("x-tw-user", "ada"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            if method.server_streaming:
                async for _ in channel.unary_stream(path)(request, timeout=5, metadata=metadata):
                    pass
            else:
                await channel.unary_unary(path)(request, timeout=5, metadata=metadata)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_two_keys_in_one_call_are_none(shared_gateway: House) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shared_gateway.chat.ListConversations(
            chat_pb2.ListConversationsRequest(),
            timeout=5,
            metadata=shared_gateway.metadata() + shared_gateway.metadata(),
        )
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("route", _routes(), ids=" ".join)
async def test_every_route_asks_for_a_key(shared_gateway: House, route: tuple[str, str]) -> None:
    method, template = route
    path = re.sub(r"\{\w+\}", "anything", template)
    for key in WRONG_KEYS:
        headers = {"authorization": key} if key else {"x-tw-user": "ada", "x-tw-tenant": "acme"}
        async with shared_gateway.http.request(
            method, shared_gateway.url + path, headers=headers, data=b"{}"
        ) as response:
            assert response.status == (200 if template in PUBLIC_PATHS else 401)
            if response.status == 401:
                assert (await response.json())["error"]["param"] == "authorization"


async def test_every_public_method_has_a_rule_and_every_rule_a_method() -> None:
    assert set(RULES) == {method.full_name for method in METHODS}
    assert set(RULES.values()) == {Access.KEY}


async def test_a_method_without_a_rule_is_denied_even_with_a_key() -> None:
    service = generator_pb2.DESCRIPTOR.services_by_name["GeneratorService"]
    servicer = guarded(service, SimpleNamespace(Generate=None), Keys(CountingStore(), 0))
    with pytest.raises(PermissionDeniedError):
        await anext(servicer.Generate(generator_pb2.GenerateRequest(), None))


async def test_services_behind_the_gateway_are_not_behind_this_door(shared_gateway: House) -> None:
    channel: Any = shared_gateway.channel
    for path in (
        "thumbwheel.session.v1.SessionService/GetMessage",
        "thumbwheel.generator.v1.RolloutService/GetRollout",
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{path}")(b"", timeout=5, metadata=shared_gateway.metadata())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_unknown_fields_are_refused_at_any_depth() -> None:
    refuse_unknown_fields(chat_pb2.SendMessageRequest(input=chat_pb2.UserInput(text="hello")), "")
    # Field 3 (input) holds a text and a field 99 that nobody knows.
    inner = chat_pb2.UserInput(text="a").SerializeToString() + b"\x98\x06\x01"
    data = b"\x1a" + bytes([len(inner)]) + inner
    with pytest.raises(InvalidArgumentError) as caught:
        refuse_unknown_fields(chat_pb2.SendMessageRequest.FromString(data), "")
    assert caught.value.field == "input.99"
