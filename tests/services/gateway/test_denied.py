"""Generated table of denials: every RPC and route × every invalid credential, every id × owner.

The session service is real, because it checks the owner on reading.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from prometheus_client import REGISTRY
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import feedback_pb2
from thumbwheel.review.v1 import arena_pb2

from services.chassis.errors import DETAILS_KEY
from services.chassis.identity import Caller
from services.chassis.server import serving
from services.gateway.access import ROUTES, RPCS
from services.gateway.identity.authentication import digest_of, new_secret
from services.gateway.identity.credential import ALL_SCOPES
from services.session.__main__ import wiring
from tests.services.gateway.bad_input import MISSING_UUID, error_info
from tests.services.gateway.gateway_under_test import (
    ADA,
    BOB,
    GatewayUnderTest,
    new_key,
    run_gateway,
)
from tests.services.gateway.valid_calls import ID_FIELDS, METHODS, VALID
from tests.services.session.service import Home, session_settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLOSED_ROUTES = [name for name, rule in ROUTES.items() if rule.scope is not None]
OPEN_ROUTES = [name for name, rule in ROUTES.items() if rule.scope is None and name != "GET /"]
JSON_ROUTES = {
    "POST /api/messages": "SendMessage",
    "POST /api/feedback": "SubmitFeedback",
    "POST /api/appeals": "SubmitAppeal",
}


@dataclass(frozen=True)
class Thing:
    """A user's conversation with question and answer, an earlier erasure, a battle and an item."""

    conversation_id: str
    question_id: str
    answer_id: str
    erasure_id: str
    battle_id: str
    item_id: str


MISSING_THING = Thing(*[MISSING_UUID] * 6)


@dataclass(frozen=True)
class Attack:
    """An authorization header with the expected rejection."""

    name: str
    authorization: str | None
    reason: str
    code: str = "UNAUTHENTICATED"
    status: int = 401


@dataclass(frozen=True)
class World:
    """A gateway, invalid credentials, and one object per user."""

    gateway: GatewayUnderTest
    attacks: Mapping[str, Attack]
    mine: Thing
    theirs: Mapping[str, Thing]


ATTACKS = (
    "nothing",
    "identity of a service",
    "empty",
    "another scheme",
    "malformed",
    "no token",
    "unknown",
    "revoked",
    "expired",
    "rotated out",
    "wrong scope",
)
HOLDER_TEXT = ("another user", "another tenant")
NAMESAKE_OF_BOB = Caller("umbrella", BOB.user)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("session")
    settings = session_settings(Home(folder, f"sqlite:///{folder}/state/sessions.db"))
    async with (
        wiring(settings) as registrations,
        serving(settings, registrations) as port,
        run_gateway(
            tmp_path_factory.mktemp("gateway"),
            session_target=f"127.0.0.1:{port}",
            http_metrics=True,
            key_cache_seconds=0,
        ) as gateway,
    ):
        theirs = (
            # Reviewers of a tenant share its items, except those with their own words.
            await _thing(gateway, gateway.other_key, item_owner=ADA),
            await _thing(gateway, gateway.namesakes_key, item_owner=NAMESAKE_OF_BOB),
        )
        yield World(
            gateway,
            {attack.name: attack for attack in await _attacks(gateway)},
            await _thing(gateway, gateway.key, item_owner=BOB),
            dict(zip(HOLDER_TEXT, theirs, strict=True)),
        )


async def _thing(gateway: GatewayUnderTest, key: str, item_owner: Caller) -> Thing:
    erased = await gateway.feedback.EraseMyData(
        feedback_pb2.EraseMyDataRequest(), timeout=10, metadata=gateway.metadata(key)
    )
    events = await gateway.ask(key=key)
    started = events[0].started
    created = await gateway.arena.CreateBattle(
        arena_pb2.CreateBattleRequest(request_id="r"), timeout=10, metadata=gateway.metadata(key)
    )
    return Thing(
        started.conversation_id,
        started.user_message_id,
        events[0].message_id,
        erased.erasure.erasure_id,
        created.battle.battle_id,
        gateway.fakes.reviews.add(item_owner),
    )


async def _attacks(gateway: GatewayUnderTest) -> list[Attack]:
    store, now = gateway.store, time.time()
    unknown, revoked, rotated = new_secret(), await new_key(store, ADA), await new_key(store, ADA)
    ids = {key.digest: key.key_id for key in await store.list_keys()}
    await store.revoke(ids[digest_of(revoked)], now)
    await store.rotate(ids[digest_of(rotated)], digest_of(new_secret()), now, now)
    expired = await new_key(store, ADA, expire_time=now)
    return [
        Attack("nothing", None, "API_KEY_MISSING"),
        Attack("identity of a service", None, "API_KEY_MISSING"),
        Attack("empty", "Bearer ", "API_KEY_INVALID"),
        Attack("another scheme", f"Basic {gateway.key}", "API_KEY_MISSING"),
        Attack("malformed", f"Bearer {gateway.key[:-1]}", "API_KEY_INVALID"),
        Attack("no token", "Bearer eyJhbGciOiJub25lIn0.e30.", "API_KEY_INVALID"),
        Attack("unknown", f"Bearer {unknown}", "API_KEY_INVALID"),
        Attack("revoked", f"Bearer {revoked}", "API_KEY_REVOKED"),
        Attack("expired", f"Bearer {expired}", "API_KEY_EXPIRED"),
        Attack("rotated out", f"Bearer {rotated}", "API_KEY_INVALID"),
        Attack("wrong scope", None, "SCOPE_MISSING", "PERMISSION_DENIED", 403),
    ]


async def _carried(world: World, attack: Attack, scope: Any) -> dict[str, str]:
    """Return the headers. A key with the wrong scope has all scopes except the required one."""
    authorization = attack.authorization
    if attack.name == "wrong scope":
        authorization = (
            f"Bearer {await new_key(world.gateway.store, ADA, scopes=ALL_SCOPES - {scope})}"
        )
    headers = {"authorization": authorization} if authorization is not None else {}
    if attack.name == "identity of a service":
        headers |= {"x-tw-tenant": ADA.tenant, "x-tw-user": ADA.user}
    return headers


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
async def test_rpc_denies(world: World, method: MethodDescriptor, name: str) -> None:
    attack = world.attacks[name]
    headers = await _carried(world, attack, RPCS[method.full_name].scope)
    request = json_format.ParseDict(
        VALID.get(method.name, {}), GetMessageClass(method.input_type)()
    )
    error = await _refusal(world.gateway, method, request, tuple(headers.items()))
    _, info = error_info(error)
    assert (error.code().name, info.reason, info.metadata["field"]) == (
        attack.code,
        attack.reason,
        "authorization",
    )


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("route", CLOSED_ROUTES)
async def test_route_denies(world: World, route: str, name: str) -> None:
    attack = world.attacks[name]
    headers = await _carried(world, attack, ROUTES[route].scope)
    status, body = await _over_http(
        world.gateway, route, re.sub(r"\{\w+\}", "anything", route), {}, headers
    )
    assert status == attack.status
    assert (body["error"]["code"].upper(), body["error"]["param"]) == (
        attack.reason,
        "authorization",
    )


@pytest.mark.parametrize("route", OPEN_ROUTES)
async def test_public_route_answers_without_a_key(world: World, route: str) -> None:
    async with world.gateway.http.get(world.gateway.url + route.removeprefix("GET ")) as response:
        assert response.status == 200


@pytest.mark.parametrize("owner", HOLDER_TEXT)
@pytest.mark.parametrize(
    ("method", "path"), ID_FIELDS, ids=[f"{method.name}-{path}" for method, path in ID_FIELDS]
)
async def test_foreign_object_of_an_rpc_looks_missing(
    world: World, method: MethodDescriptor, path: str, owner: str
) -> None:
    answers = []
    for thing in (world.theirs[owner], MISSING_THING):
        request = json_format.ParseDict(
            _naming(method.name, path, thing, world), GetMessageClass(method.input_type)()
        )
        before = await _rpcs()
        error = await _refusal(world.gateway, method, request, world.gateway.metadata())
        text, info = error_info(error)
        # Backend calls are part of the comparison, since their duration could reveal the object.
        answers.append(
            (error.code(), text, info.SerializeToString(deterministic=True), await _since(before))
        )
    assert answers[0] == answers[1]
    assert answers[0][0] is grpc.StatusCode.NOT_FOUND


def _naming(method: str, path: str, thing: Thing, world: World) -> dict[str, Any]:
    """Return a valid request with one foreign id."""
    request = dict(VALID.get(method, {}))
    *outer, last = path.split(".")
    value = {
        "conversationId": thing.conversation_id,
        "erasureId": thing.erasure_id,
        "battleId": thing.battle_id,
        "itemId": thing.item_id,
    }.get(last, thing.answer_id)
    if last == "parentMessageId":
        request["conversationId"] = world.mine.conversation_id
    if outer:
        request.pop("input", None)  # regenerate is another branch of the same oneof
        return {**request, outer[0]: {last: value}}
    return {**request, last: value}


# Bodies of routes with an id in the path, without which the id is not looked up.
PATH_BODIES = {
    "POST /api/reviews/{item_id}": VALID["SubmitReview"],
    "POST /api/reviews/{item_id}/resolution": VALID["ResolveDisagreement"],
}
ID_ROUTES = [route for route in ROUTES if "_id}" in route] + list(JSON_ROUTES)


@pytest.mark.parametrize("owner", HOLDER_TEXT)
@pytest.mark.parametrize("route", ID_ROUTES)
async def test_foreign_object_of_a_route_looks_missing(
    world: World, route: str, owner: str
) -> None:
    answers = []
    for thing in (world.theirs[owner], MISSING_THING):
        path = route.replace("{conversation_id}", thing.conversation_id).replace(
            "{message_id}", thing.answer_id
        )
        path = path.replace("{erasure_id}", thing.erasure_id)
        path = path.replace("{battle_id}", thing.battle_id)
        path = path.replace("{item_id}", thing.item_id)
        body: dict[str, Any] = PATH_BODIES.get(route, {})
        if method := JSON_ROUTES.get(route):
            field = "conversationId" if method == "SendMessage" else "messageId"
            body = _naming(method, field, thing, world)
        before = await _rpcs()
        answer = await _over_http(world.gateway, route, path, body, world.gateway.headers())
        answers.append((*answer, await _since(before)))
    assert answers[0] == answers[1]
    assert answers[0][0] == 404


async def test_same_user_name_in_two_tenants_shares_no_data(world: World) -> None:
    gateway = world.gateway
    of_ada, of_namesake = [
        await gateway.ask("hello", key=key, request_id="the same")
        for key in (gateway.key, gateway.namesakes_key)
    ]
    assert of_ada[0].message_id != of_namesake[0].message_id
    listed = {}
    for key in (gateway.key, gateway.namesakes_key):
        request = chat_pb2.ListConversationsRequest(page_size=100)
        found = await gateway.chat.ListConversations(
            request, timeout=5, metadata=gateway.metadata(key)
        )
        listed[key] = {conversation.id for conversation in found.conversations}
    assert {world.mine.conversation_id, of_ada[0].started.conversation_id} <= listed[gateway.key]
    assert not listed[gateway.key] & listed[gateway.namesakes_key]
    # Assignment uses tenant and user, so the namesakes get different arms.
    assert {"acme/ada", "umbrella/ada"} <= {
        request.user_key for request in gateway.fakes.generator.requests
    }
    # One thumb per namesake on her own answer, stored under two principals.
    for key, message_id in (
        (gateway.key, of_ada[0].message_id),
        (gateway.namesakes_key, of_namesake[0].message_id),
    ):
        said = json_format.ParseDict(
            {"messageId": message_id, "requestId": "one", "thumb": {"up": True}},
            feedback_pb2.SubmitFeedbackRequest(),
        )
        await gateway.feedback.SubmitFeedback(said, timeout=5, metadata=gateway.metadata(key))
    said_by = {(event.tenant, event.principal) for event in gateway.fakes.feedback.events.values()}
    assert (
        len({tenant for tenant, _ in said_by}) == len({principal for _, principal in said_by}) == 2
    )


async def test_erasure_keeps_the_data_of_others(world: World) -> None:
    gateway = world.gateway
    key = await new_key(gateway.store, NAMESAKE_OF_BOB)
    turns = [await gateway.ask(key=of) for of in (key, gateway.other_key)]
    erased = await gateway.feedback.EraseMyData(
        feedback_pb2.EraseMyDataRequest(), timeout=10, metadata=gateway.metadata(key)
    )
    assert erased.removed_conversations == 1
    for of, turn, there in zip((key, gateway.other_key), turns, (False, True), strict=True):
        request = chat_pb2.ListConversationsRequest(page_size=100)
        found = await gateway.chat.ListConversations(
            request, timeout=5, metadata=gateway.metadata(of)
        )
        assert (turn[0].started.conversation_id in {one.id for one in found.conversations}) is there


async def test_denied_calls_leave_all_objects_unchanged(world: World) -> None:
    for key, thing in zip(
        (world.gateway.other_key, world.gateway.namesakes_key), world.theirs.values(), strict=True
    ):
        request = chat_pb2.GetConversationRequest(conversation_id=thing.conversation_id)
        found = await world.gateway.chat.GetConversation(
            request, timeout=5, metadata=world.gateway.metadata(key)
        )
        assert [message.id for message in found.messages] == [thing.question_id, thing.answer_id]
        assert found.messages[1].text


async def _refusal(
    gateway: GatewayUnderTest, method: MethodDescriptor, request: Any, metadata: Any
) -> grpc.aio.AioRpcError:
    channel: Any = gateway.channel
    path, data = (
        f"/{method.containing_service.full_name}/{method.name}",
        request.SerializeToString(),
    )
    try:
        if method.server_streaming:
            async for _ in channel.unary_stream(path)(data, timeout=5, metadata=metadata):
                pass
        else:
            await channel.unary_unary(path)(data, timeout=5, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        assert DETAILS_KEY in dict(error.trailing_metadata() or ())
        return error
    raise AssertionError("let in")


async def _over_http(
    gateway: GatewayUnderTest, route: str, path: str, body: dict[str, Any], headers: dict[str, str]
) -> tuple[int, dict[str, Any]]:
    method = route.split(" ")[0]
    sent = {"json": body} if method in ("POST", "PUT") else {}
    async with gateway.http.request(
        method, gateway.url + path.split(" ")[1], headers=headers, **sent
    ) as response:
        return response.status, await response.json()


async def _rpcs() -> Counter[str]:
    """Return the number of ended calls by method and status, after all running calls have ended."""
    for _ in range(500):
        samples = [sample for metric in REGISTRY.collect() for sample in metric.samples]
        if not any(sample.value for sample in samples if sample.name == "thumbwheel_rpcs_running"):
            ended = [sample for sample in samples if sample.name == "thumbwheel_rpcs_total"]
            return Counter(
                {
                    f"{found.labels['method']} {found.labels['code']}": int(found.value)
                    for found in ended
                }
            )
        await asyncio.sleep(0.01)
    raise AssertionError("calls run and do not end")


async def _since(before: Counter[str]) -> Counter[str]:
    """Return all new calls except those of the guard.

    A check of the input runs concurrently with the session's call, and its cancellation after a
    rejection has no fixed time.
    """
    calls = await _rpcs() - before
    return Counter(
        {call: count for call, count in calls.items() if not call.startswith("CheckInput ")}
    )
