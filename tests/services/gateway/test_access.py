"""Deny by default in cases outside the generated table of test_denied.py.

Cases: missing rule, two keys, unknown fields, services behind the gateway.
"""

from types import SimpleNamespace
from typing import Any

import aiohttp
import grpc
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import InvalidArgumentError, PermissionDeniedError
from services.gateway.access import access_check, reject_unknown_fields
from services.gateway.http.app import Router
from services.gateway.http.server import serving_http
from services.gateway.http.session import CookieRules, PageSessions
from services.gateway.identity.authentication import ApiKeys, Authenticator, mint
from services.gateway.identity.end_users import EndUsers
from tests.services.gateway.calls import single_replica
from tests.services.gateway.gateway_under_test import ADA, PRINCIPAL_KEY, GatewayUnderTest
from tests.services.gateway.keys import CountingStore
from tests.support.errors import refused

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_two_keys_in_one_call_count_as_none(shared_gateway: GatewayUnderTest) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await shared_gateway.chat.ListConversations(
            chat_pb2.ListConversationsRequest(),
            timeout=5,
            metadata=shared_gateway.metadata() + shared_gateway.metadata(),
        )
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_method_without_a_rule_is_denied_even_with_a_key() -> None:
    secret, key = mint(ADA)
    check = access_check(
        Authenticator(ApiKeys(CountingStore(key), 0), None),
        EndUsers(PRINCIPAL_KEY),
        single_replica().quotas,
    )
    context: Any = SimpleNamespace(
        invocation_metadata=lambda: (("authorization", f"Bearer {secret}"),)
    )
    with refused(PermissionDeniedError, reason="NO_RULE"):
        await check("/thumbwheel.generator.v1.GeneratorService/Generate", context)


async def test_route_without_a_rule_is_denied_even_with_a_key() -> None:
    async def endpoint(request: Request) -> Response:
        raise AssertionError("reached")

    secret, key = mint(ADA)
    authenticator = Authenticator(ApiKeys(CountingStore(key), 0), None)
    sessions = PageSessions(authenticator, [PRINCIPAL_KEY], CookieRules(60, secure=False))
    door = Router(authenticator, sessions, EndUsers(PRINCIPAL_KEY), single_replica().quotas, 1)
    app = Starlette(routes=[door.route("GET /api/secrets", endpoint)])
    headers = {"authorization": f"Bearer {secret}"}
    async with (
        serving_http(app, "127.0.0.1", 0, write_seconds=30) as port,
        aiohttp.ClientSession() as http,
        http.get(f"http://127.0.0.1:{port}/api/secrets", headers=headers) as response,
    ):
        assert (response.status, (await response.json())["error"]["code"]) == (403, "no_rule")


async def test_internal_services_are_unreachable_through_the_gateway(
    shared_gateway: GatewayUnderTest,
) -> None:
    channel: Any = shared_gateway.channel
    for path in (
        "thumbwheel.session.v1.SessionService/GetMessage",
        "thumbwheel.generator.v1.RolloutService/GetRollout",
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{path}")(
                b"", timeout=5, metadata=shared_gateway.metadata()
            )
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_unknown_fields_are_rejected_at_any_depth() -> None:
    reject_unknown_fields(chat_pb2.SendMessageRequest(input=chat_pb2.UserInput(text="hello")))
    # Field 3 (input) contains a text and the unknown field 99.
    inner = chat_pb2.UserInput(text="a").SerializeToString() + b"\x98\x06\x01"
    data = b"\x1a" + bytes([len(inner)]) + inner
    with pytest.raises(InvalidArgumentError) as caught:
        reject_unknown_fields(chat_pb2.SendMessageRequest.FromString(data))
    assert caught.value.field == "input.99"
