"""Finding S-14: end users behind one shared key, over HTTP and gRPC."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import feedback_pb2

from services.chassis.errors import InvalidArgumentError, ResourceExhaustedError
from services.chassis.identity import Caller
from services.gateway.identity.credential import ALL_SCOPES, Scope
from services.gateway.identity.end_users import END_USER_LIMIT
from tests.services.gateway.calls import read_to_error
from tests.services.gateway.gateway_under_test import GatewayUnderTest, new_key, run_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

APP, OTHER_APP = Caller("acme", "app"), Caller("acme", "other-app")
SHARED = ALL_SCOPES | {Scope.END_USERS}


class App:
    """A client with one key."""

    def __init__(self, gateway: GatewayUnderTest, key: str) -> None:
        self._gateway, self._key = gateway, key

    async def complete(
        self, headers: Mapping[str, str] | None = None, **fields: Any
    ) -> tuple[int, str]:
        """Return the status, and the parameter or the limit of an error."""
        messages = [{"role": "user", "content": "What is it?"}]
        async with self._gateway.http.post(
            f"{self._gateway.url}/v1/chat/completions",
            json={"model": "thumbwheel", "messages": messages, **fields},
            headers={**self._gateway.headers(self._key), **(headers or {})},
        ) as response:
            body = await response.json()
            error = body.get("error", {})
            return response.status, error.get("param") or error.get("message", "")

    def metadata(self, *names: str) -> tuple[tuple[str, str], ...]:
        return (*self._gateway.metadata(self._key), *(("x-end-user", name) for name in names))

    def send(self, *names: str) -> Any:
        request = chat_pb2.SendMessageRequest(input=chat_pb2.UserInput(text="What is it?"))
        return self._gateway.chat.SendMessage(request, timeout=10, metadata=self.metadata(*names))

    async def ask(self, *names: str) -> str:
        """Return the caller of the turn, as the generator saw it."""
        async for _ in self.send(*names):
            pass
        return self._gateway.fakes.generator.users[-1]


async def test_end_users_have_limits_of_their_own(tmp_path: Path) -> None:
    async with run_gateway(tmp_path, user_requests_per_minute=1) as gateway:
        app = App(gateway, await new_key(gateway.store, APP, scopes=SHARED))
        assert (await app.complete(user="ann"))[0] == 200
        status, message = await app.complete(user="ann")
        assert status == 429
        assert "of a user" in message
        assert (await app.complete(safety_identifier="bob"))[0] == 200
        # The same end users, named in the header and over gRPC.
        assert (await app.complete({"x-end-user": "bob"}))[0] == 429
        _, error = await read_to_error(app.send("ann"))
        assert isinstance(error, ResourceExhaustedError)
        # Without a name the user of the key is the caller.
        assert (await app.complete())[0] == 200


async def test_all_end_users_together_have_the_limit_of_their_key(tmp_path: Path) -> None:
    async with run_gateway(tmp_path, user_requests_per_minute=1, shared_key_users=2) as gateway:
        app = App(gateway, await new_key(gateway.store, APP, scopes=SHARED))
        other = App(gateway, await new_key(gateway.store, OTHER_APP, scopes=SHARED))
        assert [(await app.complete(user=name))[0] for name in ("ann", "bob")] == [200, 200]
        status, message = await app.complete(user="cid")
        assert status == 429
        assert "2 requests per minute of the key" in message
        assert (await other.complete(user="cid"))[0] == 200


async def test_end_users_are_different_callers_without_their_names(
    shared_gateway: GatewayUnderTest,
) -> None:
    app = App(shared_gateway, await new_key(shared_gateway.store, APP, scopes=SHARED))
    twin = App(shared_gateway, await new_key(shared_gateway.store, APP, scopes=SHARED))
    other = App(shared_gateway, await new_key(shared_gateway.store, OTHER_APP, scopes=SHARED))
    ann, bob, without = await app.ask("ann"), await app.ask("bob"), await app.ask()
    assert re.fullmatch("acme/end-[0-9a-f]{40}", ann)
    assert len({ann, bob, without, await other.ask("ann")}) == 4
    assert without == APP.key
    # A second key of the same user, for example after a rotation, has the same end users.
    assert await twin.ask("ann") == ann
    await app.complete(user="ann")
    assert shared_gateway.fakes.generator.users[-1] == ann


async def test_consent_is_that_of_the_end_user(shared_gateway: GatewayUnderTest) -> None:
    app = App(shared_gateway, await new_key(shared_gateway.store, APP, scopes=SHARED))
    await shared_gateway.feedback.SetConsent(
        feedback_pb2.SetConsentRequest(training=False), timeout=5, metadata=app.metadata("ann")
    )
    found = [
        await shared_gateway.feedback.GetConsent(
            feedback_pb2.GetConsentRequest(), timeout=5, metadata=app.metadata(*names)
        )
        for names in (("ann",), ("bob",), ())
    ]
    assert [answer.consent.training for answer in found] == [False, True, True]


async def test_other_keys_ignore_the_names(tmp_path: Path) -> None:
    async with run_gateway(tmp_path, user_requests_per_minute=2) as gateway:
        app = App(gateway, await new_key(gateway.store, APP))
        assert (await app.complete({"x-end-user": "é"}, user="ann"))[0] == 200
        assert await app.ask("bob") == APP.key
        assert (await app.complete(user=["cid"]))[0] == 429


@pytest.mark.parametrize(
    ("headers", "fields", "name"),
    [
        ({}, {"user": ""}, "user"),
        ({}, {"user": " ann"}, "user"),
        ({}, {"user": "ann\n"}, "user"),
        ({}, {"user": "é"}, "user"),
        ({}, {"user": 7}, "user"),
        ({}, {"user": "a" * 129}, "user"),
        ({}, {"safety_identifier": ["ann"]}, "safety_identifier"),
        ({}, {"safety_identifier": "ann", "user": "bob"}, "user"),
        ({"x-end-user": "bob"}, {"user": "ann"}, "user"),
        ({"x-end-user": "a" * 129}, {}, "x-end-user"),
    ],
)
async def test_invalid_name_is_refused(
    shared_gateway: GatewayUnderTest, headers: dict[str, str], fields: dict[str, Any], name: str
) -> None:
    app = App(shared_gateway, await new_key(shared_gateway.store, APP, scopes=SHARED))
    assert await app.complete(headers, **fields) == (400, name)


@pytest.mark.parametrize(
    ("names", "limit"), [(("a" * 129,), END_USER_LIMIT), (("ann", "bob"), "one value")]
)
async def test_invalid_metadata_is_refused(
    shared_gateway: GatewayUnderTest, names: tuple[str, ...], limit: str
) -> None:
    app = App(shared_gateway, await new_key(shared_gateway.store, APP, scopes=SHARED))
    _, error = await read_to_error(app.send(*names))
    assert isinstance(error, InvalidArgumentError)
    assert (error.field, error.limit) == ("x-end-user", limit)


async def test_longest_name_is_accepted(shared_gateway: GatewayUnderTest) -> None:
    app = App(shared_gateway, await new_key(shared_gateway.store, APP, scopes=SHARED))
    assert (await app.complete(user="a b" + "c" * 125, safety_identifier=None))[0] == 200
