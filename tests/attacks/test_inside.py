"""Attacks of a local process or pod on the inner ports: forged users, forged and stolen tokens.

The methods are those of the descriptors, so that a new method is attacked as well.
"""

import asyncio
import importlib
import pkgutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.descriptor import MethodDescriptor

from infra.service_table import service_table
from services.chassis.identity import Caller
from services.chassis.identity_keys import key_id_of, read_private_key
from services.chassis.service_identity import IDENTITY_KEY, TOKEN_SECONDS
from tests.attacks.attacked import SHORT, Attacked
from tests.support.http1 import raw_request
from tests.support.http2 import DEFAULT_WINDOW, grpc_message, raw_connection
from training.service_identity import FOLDER

INNER = tuple(service.name for service in service_table().grpc if service.name != "gateway")
VICTIM = Caller("default", "bystander")
IDENTITY = (("x-tw-tenant", VICTIM.tenant), ("x-tw-user", VICTIM.user))
WATCH = b"/grpc.health.v1.Health/Watch"


def methods_of(service: str) -> Iterator[MethodDescriptor]:
    """Yield the methods of a service's inner port."""
    served = importlib.import_module(f"services.{service}.access").CALLERS
    package = importlib.import_module(f"thumbwheel.{service}.v1")
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if not found.name.endswith("_pb2"):
            continue
        module = importlib.import_module(found.name)
        for descriptor in module.DESCRIPTOR.services_by_name.values():
            # The public service of a package may be served by the gateway only.
            if any(name.startswith(f"{descriptor.full_name}.") for name in served):
                yield from descriptor.methods


METHODS = [(service, method) for service in INNER for method in methods_of(service)]
IDS = [method.full_name for _, method in METHODS]


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def code_of(attacked: Attacked, service: str, path: str, metadata: Any) -> grpc.StatusCode:
    """Return the status of an empty call on the inner port of a service."""
    target = f"127.0.0.1:{attacked.stack.ports[service]}"
    with grpc.insecure_channel(target) as channel:
        try:
            list(channel.unary_stream(path)(b"", timeout=30, metadata=metadata))
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def signed(token: str) -> tuple[tuple[str, str], ...]:
    return (*IDENTITY, (IDENTITY_KEY, token))


@pytest.mark.parametrize(("service", "method"), METHODS, ids=IDS)
def test_inner_method_refuses_forged_users(
    attacked_system: Attacked, service: str, method: MethodDescriptor
) -> None:
    """Attack A11: inner services believed the tenant and the user of any caller."""
    for metadata in ((), IDENTITY, signed(""), signed("x"), (*signed("x"), (IDENTITY_KEY, "y"))):
        code = code_of(attacked_system, service, path_of(method), metadata)
        assert code is grpc.StatusCode.UNAUTHENTICATED


def forged_tokens(attacked: Attacked, path: str) -> Mapping[str, str]:
    """Return tokens of a forger, who knows the public keys and some tokens of the gateway."""
    gateway = attacked.signer("gateway")
    key = read_private_key(attacked.stack.state / FOLDER / "gateway.key")
    kid = {"kid": key_id_of(key.public_key())}
    now = int(time.time())
    claims = {
        "iss": "gateway",
        "exp": now + TOKEN_SECONDS,
        "method": path,
        "tenant": VICTIM.tenant,
        "user": VICTIM.user,
    }
    valid = jwt.encode(claims, key, "EdDSA", headers=kid)
    return {
        "another key": jwt.encode(claims, Ed25519PrivateKey.generate(), "EdDSA", headers=kid),
        "no signature": jwt.encode(claims, None, "none", headers=kid),
        "cut signature": valid.rpartition(".")[0] + ".",
        # The key of the HMAC is the public key, which a confused verifier would use.
        "HMAC": jwt.encode(claims, key.public_key().public_bytes_raw(), "HS256", headers=kid),
        "expired": jwt.encode({**claims, "exp": now - 1}, key, "EdDSA", headers=kid),
        "long-lived": jwt.encode({**claims, "exp": now + 86_400}, key, "EdDSA", headers=kid),
        "of another method": gateway.token(f"{path}Other", VICTIM),
        "of another user": gateway.token(path, Caller("default", "attacker")),
        "of another tenant": gateway.token(path, Caller("umbrella", VICTIM.user)),
    }


def test_forged_and_replayed_tokens_are_refused(attacked_system: Attacked) -> None:
    path = "/thumbwheel.session.v1.SessionService/ListConversations"
    codes = {
        name: code_of(attacked_system, "session", path, signed(token))
        for name, token in forged_tokens(attacked_system, path).items()
    }
    assert codes == dict.fromkeys(codes, grpc.StatusCode.UNAUTHENTICATED)
    # The same call with a token of the gateway for it is answered, so the refusals have a cause.
    token = attacked_system.signer("gateway").token(path, VICTIM)
    assert code_of(attacked_system, "session", path, signed(token)) is grpc.StatusCode.OK


@pytest.mark.parametrize(("service", "method"), METHODS, ids=IDS)
def test_stolen_key_of_a_service_opens_the_methods_of_that_service_only(
    attacked_system: Attacked, service: str, method: MethodDescriptor
) -> None:
    callers = importlib.import_module(f"services.{service}.access").CALLERS
    allowed = callers.get(method.full_name, frozenset())
    names = {key.stem for key in (attacked_system.stack.state / FOLDER).glob("*.key")}
    assert {"gateway", "session"} <= names
    for caller in names - allowed:
        token = attacked_system.signer(caller).token(path_of(method), VICTIM)
        code = code_of(attacked_system, service, path_of(method), signed(token))
        assert code is grpc.StatusCode.PERMISSION_DENIED, caller


@pytest.mark.parametrize("service", ["session", "feedback"])
async def test_calls_without_a_token_leave_room_for_others(
    attacked: Attacked, service: str
) -> None:
    """Half-sent messages and watchers with long names on an inner port, without a token."""
    method = next(method for method in methods_of(service))
    half = grpc_message(bytes(DEFAULT_WINDOW))[:DEFAULT_WINDOW]
    name = b"\x0a\xe0\xff\x03" + b"x" * 65_504
    timeout = [(b"grpc-timeout", b"600S")]
    async with AsyncExitStack() as held:
        for _ in range(4):
            connection = await held.enter_async_context(
                raw_connection(attacked.stack.ports[service], response_window=0)
            )
            for _ in range(50):
                await connection.start_call(path_of(method).encode(), timeout, half[:1_000])
                await connection.start_call(WATCH, timeout, grpc_message(name)[:1_000])
        await asyncio.to_thread(attacked.check)


@pytest.mark.parametrize("service", INNER)
async def test_metrics_of_inner_services_have_no_texts_users_or_keys(
    attacked_system: Attacked, service: str
) -> None:
    word = "pachycephalosaurus"
    attacked_system.bystander.ask(f"Tell me about the {word}.", sampling=SHORT)
    answer = await raw_request(
        attacked_system.stack.ports[f"{service}_metrics"],
        b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
    )
    assert answer.status == 200 or answer.head.startswith(b"http/1.0 200")
    assert word.encode() not in answer.body
    assert VICTIM.user.encode() not in answer.body


def test_other_accounts_of_the_machine_read_no_state(attacked_system: Attacked) -> None:
    """Finding S-33: databases, keys and the texts of chats were readable by every account."""
    state = attacked_system.stack.state
    assert state.stat().st_mode & 0o077 == 0
    # Journeys on the same system train and compact in the process of the tests, with its umask.
    files = [
        file
        for file in state.rglob("*")
        if file.is_file() and {"loop", "compacted"}.isdisjoint(file.relative_to(state).parts)
    ]
    assert len(files) > 10
    assert [str(file) for file in files if file.stat().st_mode & 0o077] == []
