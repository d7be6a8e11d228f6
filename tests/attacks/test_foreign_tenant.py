"""Ids of another tenant, and of a colleague, on every RPC and route: they answer as missing ids.

The calls are generated from the descriptors and the table of routes, as in
tests/services/gateway/test_denied.py, and made against the whole system.
"""

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass

from services.chassis.identity import Caller
from services.gateway.access import ROUTES
from tests.attacks.attacked import SHORT, Attacked, metadata_of
from tests.journeys.client import Client
from tests.journeys.drawn_items import add_item
from tests.services.gateway.bad_input import MISSING_UUID
from tests.services.gateway.valid_calls import ID_FIELDS, VALID

OWNERS = ("colleague", "namesake")
ID_ROUTES = [name for name in ROUTES if re.search(r"\{\w+_id\}", name)]
# Fields with ids in the bodies of routes, by route.
BODIES = {
    "POST /api/messages": [
        ({"input": {"text": "hello"}}, "conversationId", "conversation_id"),
        ({}, "regenerate", "message_id"),
        ({"input": {"text": "hello"}}, "parentMessageId", "message_id"),
    ],
    "POST /api/feedback": [
        ({"requestId": "r", "thumb": {"up": True}}, "messageId", "message_id"),
    ],
    "POST /api/appeals": [({}, "messageId", "message_id")],
}


@dataclass(frozen=True)
class Owned:
    """Objects of a user."""

    client: Client
    ids: dict[str, str]


# Bodies of routes with an id in the path, without which the id is not looked up.
PATH_BODIES = {
    "POST /api/arena/battles/{battle_id}/vote": VALID["VoteBattle"],
    "POST /api/reviews/{item_id}": VALID["SubmitReview"],
    "POST /api/reviews/{item_id}/resolution": VALID["ResolveDisagreement"],
}
MISSING = dict.fromkeys(
    ("conversation_id", "message_id", "erasure_id", "battle_id", "item_id"), MISSING_UUID
)
# Users whose words are in the items: reviewers of a tenant share its items, except their own words.
ITEM_OWNERS = {
    "colleague": Caller("default", "attacker"),
    "namesake": Caller("umbrella", "colleague"),
}


def own(client: Client, item_id: str) -> Owned:
    """Return an earlier erasure, a conversation with an answer, a battle and an item of a user."""
    status, answer = client.call("POST", "/api/erasure")
    assert status == 200, answer
    first = client.ask("hello", sampling=SHORT)[0]
    status, created = client.call("POST", "/api/arena/battles", {"requestId": "r"})
    assert status == 200, created
    return Owned(
        client,
        {
            "conversation_id": first["started"]["conversationId"],
            "message_id": first["messageId"],
            "erasure_id": answer["erasure"]["erasureId"],
            "battle_id": created["battle"]["battleId"],
            "item_id": item_id,
        },
    )


@pytest.fixture(scope="module")
def owners(attacked_system: Attacked) -> Iterator[dict[str, Owned]]:
    """Return the objects of others, and check afterwards that no attack has changed them."""
    found = {
        name: own(
            getattr(attacked_system, name), add_item(attacked_system.stack, ITEM_OWNERS[name])
        )
        for name in OWNERS
    }
    before = {name: conversation_of(owned) for name, owned in found.items()}
    yield found
    assert {name: conversation_of(owned) for name, owned in found.items()} == before


def conversation_of(owned: Owned) -> list[dict[str, Any]]:
    return owned.client.conversation(owned.ids["conversation_id"])


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize(
    ("method", "path"), ID_FIELDS, ids=[f"{method.name}-{path}" for method, path in ID_FIELDS]
)
def test_foreign_id_in_an_rpc_answers_as_a_missing_id(
    attacked_system: Attacked,
    owners: dict[str, Owned],
    method: MethodDescriptor,
    path: str,
    owner: str,
) -> None:
    foreign, missing = [
        status_of(attacked_system, method, request_with(method.name, path, ids))
        for ids in (owners[owner].ids, MISSING)
    ]
    assert foreign == missing
    assert foreign[0] is grpc.StatusCode.NOT_FOUND


def request_with(method: str, path: str, ids: dict[str, str]) -> dict[str, Any]:
    """Return a valid request in protobuf's JSON with one id of an object."""
    request = dict(VALID.get(method, {}))
    *outer, last = path.split(".")
    name = re.sub(r"([A-Z])", lambda letter: f"_{letter[1].lower()}", last)
    value = ids.get(name, ids["message_id"])
    if outer:
        request.pop("input", None)  # regenerate is another branch of the same oneof
        return {**request, outer[0]: {last: value}}
    return {**request, last: value}


def status_of(
    attacked: Attacked, method: MethodDescriptor, request: dict[str, Any]
) -> tuple[grpc.StatusCode, str, Any]:
    """Return the code, the text and the details of a refused call."""
    message = json_format.ParseDict(request, GetMessageClass(method.input_type)())
    path = f"/{method.containing_service.full_name}/{method.name}"
    with (
        grpc.insecure_channel(attacked.stack.grpc) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        list(
            channel.unary_stream(path)(
                message.SerializeToString(), timeout=30, metadata=metadata_of(attacked.attacker)
            )
        )
    details = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    return caught.value.code(), caught.value.details(), details


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize("route", ID_ROUTES)
def test_foreign_id_in_a_path_answers_as_a_missing_id(
    attacked_system: Attacked, owners: dict[str, Owned], route: str, owner: str
) -> None:
    method, _, path = route.partition(" ")
    foreign, missing = [
        attacked_system.attacker.call(method, path.format(**ids), PATH_BODIES.get(route))
        for ids in (owners[owner].ids, MISSING)
    ]
    assert foreign == missing
    assert foreign[0] == 404


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize(
    ("route", "body", "field", "name"),
    [(route, *each) for route, bodies in BODIES.items() for each in bodies],
    ids=[each[1] for bodies in BODIES.values() for each in bodies],
)
def test_foreign_id_in_a_body_answers_as_a_missing_id(
    attacked_system: Attacked,
    owners: dict[str, Owned],
    route: str,
    body: dict[str, Any],
    field: str,
    name: str,
    owner: str,
) -> None:
    client, answers = attacked_system.attacker, []
    for ids in (owners[owner].ids, MISSING):
        value: Any = {"messageId": ids[name]} if field == "regenerate" else ids[name]
        mine = client.ask("hello", sampling=SHORT)[0]["started"]["conversationId"]
        place = {"conversationId": mine} if field == "parentMessageId" else {}
        answers.append(client.call(*route.split(" "), {**body, **place, field: value}))
    assert answers[0] == answers[1]
    assert answers[0][0] == 404


def test_identity_in_metadata_and_headers_is_ignored(
    attacked_system: Attacked, owners: dict[str, Owned]
) -> None:
    """The metadata with which services name users have no effect on the public ports."""
    listing = next(method for method, _ in ID_FIELDS).containing_service.methods_by_name
    victim = owners["namesake"].ids["conversation_id"]
    forged = (("x-tw-tenant", "umbrella"), ("x-tw-user", "attacker"))
    message = GetMessageClass(listing["ListConversations"].input_type)()
    path = "/thumbwheel.chat.v1.ChatService/ListConversations"
    with grpc.insecure_channel(attacked_system.stack.grpc) as channel:
        call = channel.unary_unary(path)
        own_key = metadata_of(attacked_system.attacker)
        answer = call(message.SerializeToString(), timeout=30, metadata=(*own_key, *forged))
        assert victim.encode() not in answer
        with pytest.raises(grpc.RpcError) as caught:
            call(message.SerializeToString(), timeout=30, metadata=forged)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_same_request_id_of_another_user_is_another_turn(attacked_system: Attacked) -> None:
    request_id = str(uuid.uuid4())
    found = {
        client.key: client.ask("hello", requestId=request_id, sampling=SHORT)[0]["messageId"]
        for client in (
            attacked_system.attacker,
            attacked_system.colleague,
            attacked_system.namesake,
        )
    }
    assert len(set(found.values())) == 3
