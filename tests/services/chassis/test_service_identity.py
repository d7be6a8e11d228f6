"""Signed calls between services: tokens, access by caller, and rotation over a real socket."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from grpc_health.v1 import health_pb2, health_pb2_grpc
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc

from services.chassis import service_identity
from services.chassis.channel import call_unary, open_channel
from services.chassis.errors import (
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
    from_rpc,
)
from services.chassis.identity import CallContext, Caller, bind_call, require_caller
from services.chassis.identity_keys import (
    IdentityKeyError,
    create_key_pair,
    read_private_key,
    read_public_keys,
    retire_keys,
)
from services.chassis.server import Registration, serving
from services.chassis.service_identity import (
    IDENTITY_KEY,
    LEEWAY_SECONDS,
    REUSE_SECONDS,
    TOKEN_SECONDS,
    ServiceTokenError,
    TokenSigner,
    TokenVerifier,
)
from services.chassis.settings import ServiceSettings
from tests.support.errors import refused

NAME = "thumbwheel.enhancer.v1.EnhancerService"
METHOD, OTHER_METHOD = f"/{NAME}/Enhance", f"/{NAME}/Other"
ADA = Caller("acme", "ada")
CALLERS = {f"{NAME}.Enhance": frozenset({"gateway"})}


class Keys:
    """Folder with key pairs, as `make up` creates it."""

    def __init__(self, folder: Path, *callers: str) -> None:
        self.folder, self.public = folder, folder / "public"
        for caller in callers:
            create_key_pair(caller, self.private(caller), self.public)

    def private(self, caller: str) -> Path:
        return self.folder / f"{caller}.key"

    def signer(self, caller: str) -> TokenSigner:
        return TokenSigner(caller, self.private(caller))

    def verifier(self, *, required: bool = True) -> TokenVerifier:
        return TokenVerifier(self.public, required=required)

    def token(self, caller: str = "gateway", **changed: object) -> str:
        """Return a valid token of this caller, with changed claims; None removes a claim."""
        key = read_private_key(self.private(caller))
        header = jwt.get_unverified_header(self.signer(caller).token(METHOD, ADA))
        claims = {
            "iss": caller,
            "exp": int(time.time()) + TOKEN_SECONDS,
            "method": METHOD,
            "tenant": ADA.tenant,
            "user": ADA.user,
            **changed,
        }
        kept = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(kept, key, algorithm="EdDSA", headers={"kid": header["kid"]})


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path, "gateway", "session")


@pytest.fixture(autouse=True)
def _check_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_identity, "CHECK_INTERVAL_SECONDS", 0.0)


def verified(verifier: TokenVerifier, *tokens: str, method: str = METHOD) -> str:
    return verifier.verify(method, ADA, [(IDENTITY_KEY, token) for token in tokens])


def test_token_names_the_service_that_signed_it(keys: Keys) -> None:
    for caller in ("gateway", "session"):
        assert verified(keys.verifier(), keys.signer(caller).token(METHOD, ADA)) == caller


def test_token_of_one_method_tenant_and_user_is_invalid_for_others(keys: Keys) -> None:
    verifier, signer = keys.verifier(), keys.signer("gateway")
    for token in (
        signer.token(OTHER_METHOD, ADA),
        signer.token(METHOD, Caller("umbrella", "ada")),
        signer.token(METHOD, Caller("acme", "bob")),
        signer.token(METHOD, Caller()),
    ):
        with refused(ServiceTokenError, reason="SERVICE_TOKEN_MISMATCH", field=IDENTITY_KEY):
            verified(verifier, token)


def test_token_is_accepted_repeatedly_until_its_expiry(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier, token = keys.verifier(), keys.token()
    assert [verified(verifier, token) for _ in range(3)] == ["gateway"] * 3
    later = time.time() + TOKEN_SECONDS
    monkeypatch.setattr(service_identity.time, "time", lambda: later)
    for each in (verifier, keys.verifier()):  # with and without an earlier verification
        with refused(ServiceTokenError, reason="SERVICE_TOKEN_EXPIRED"):
            verified(each, token)


def test_expiry_far_in_the_future_is_refused(keys: Keys) -> None:
    longest = int(time.time()) + TOKEN_SECONDS + LEEWAY_SECONDS
    assert verified(keys.verifier(), keys.token(exp=longest)) == "gateway"
    with refused(ServiceTokenError, reason="SERVICE_TOKEN_EXPIRED"):
        verified(keys.verifier(), keys.token(exp=longest + 10))


@pytest.mark.parametrize("claim", ["iss", "exp", "method", "tenant", "user"])
def test_token_without_a_claim_is_refused(keys: Keys, claim: str) -> None:
    with refused(ServiceTokenError, reason="SERVICE_TOKEN_INVALID"):
        verified(keys.verifier(), keys.token(**{claim: None}))


def test_forged_tokens_are_refused(keys: Keys, tmp_path: Path) -> None:
    stranger = Keys(tmp_path / "stranger", "gateway")
    valid = keys.token()
    head, claims, signature = valid.split(".")
    kid = {"kid": jwt.get_unverified_header(valid)["kid"]}
    body = jwt.decode(valid, options={"verify_signature": False})
    public = read_public_keys(keys.public)[kid["kid"]].key.public_bytes_raw()
    cases = {
        stranger.token(): "UNKNOWN_KEY",
        keys.token("session", iss="gateway"): "INVALID",
        f"{head}.{claims}.{signature[:-4]}AAAA": "INVALID",
        f"{head}.{keys.token(user='bob').split('.')[1]}.{signature}": "INVALID",
        jwt.encode(body, None, algorithm="none", headers=kid): "INVALID",
        # The public key as the secret of a symmetric algorithm.
        jwt.encode(body, public, algorithm="HS256", headers=kid): "INVALID",
        "": "INVALID",
        "no token": "INVALID",
    }
    for token, reason in cases.items():
        with refused(ServiceTokenError, reason=f"SERVICE_TOKEN_{reason}"):
            verified(keys.verifier(), token)
    with refused(ServiceTokenError, reason="SERVICE_TOKEN_INVALID"):
        verified(keys.verifier(), valid, valid)


def test_missing_token_is_accepted_only_while_tokens_are_not_required(keys: Keys) -> None:
    assert verified(keys.verifier(required=False)) == ""
    with refused(ServiceTokenError, reason="SERVICE_TOKEN_MISSING"):
        verified(keys.verifier())
    with refused(ServiceTokenError, reason="SERVICE_TOKEN_INVALID"):
        verified(keys.verifier(required=False), "no token")


def test_token_is_reused_for_part_of_its_life(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    signer, now = keys.signer("gateway"), time.time()
    seconds = [0, REUSE_SECONDS - 1, REUSE_SECONDS + 1]
    found = []
    for each in seconds:
        monkeypatch.setattr(service_identity.time, "time", lambda each=each: now + each)
        found.append(signer.token(METHOD, ADA))
    assert found[0] == found[1] != found[2]


def test_memory_of_tokens_is_limited(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_identity, "MAX_TOKENS", 4)
    signer, verifier = keys.signer("gateway"), keys.verifier()
    for number in range(10):
        caller = Caller("acme", f"user-{number}")
        verifier.verify(METHOD, caller, [(IDENTITY_KEY, signer.token(METHOD, caller))])
        assert max(len(signer._tokens), len(verifier._verified)) <= 4


def test_keys_overlap_during_a_rotation_and_a_retired_key_is_refused(keys: Keys) -> None:
    signer, verifier = keys.signer("gateway"), keys.verifier()
    old = signer.token(METHOD, ADA)
    create_key_pair("gateway", keys.folder / "next.key", keys.public)
    assert verified(verifier, old) == "gateway"
    (keys.folder / "next.key").replace(keys.private("gateway"))
    new = signer.token(METHOD, ADA)
    ids = [jwt.get_unverified_header(token)["kid"] for token in (old, new)]
    assert ids[0] != ids[1]
    assert [verified(verifier, token) for token in (old, new)] == ["gateway"] * 2
    assert retire_keys("gateway", keys.private("gateway"), keys.public) == [ids[0]]
    assert verified(verifier, new) == "gateway"
    with refused(ServiceTokenError, reason="SERVICE_TOKEN_UNKNOWN_KEY"):
        verified(verifier, old)


def test_unusable_files_keep_the_previous_keys(keys: Keys) -> None:
    signer, verifier = keys.signer("gateway"), keys.verifier()
    keys.private("gateway").write_text("half")
    (keys.public / "training.pem").write_text("half")
    assert verified(verifier, signer.token(METHOD, ADA)) == "gateway"


def test_unusable_keys_are_refused_at_the_start(keys: Keys, tmp_path: Path) -> None:
    wrong = tmp_path / "other.key"
    wrong.write_bytes(
        generate_private_key(SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    for file in (wrong, tmp_path / "absent.key"):
        with refused(IdentityKeyError, field=str(file), reason="INVALID_IDENTITY_KEY"):
            TokenSigner("gateway", file)
    empty = tmp_path / "empty"
    with refused(IdentityKeyError, field=str(empty)):
        TokenVerifier(empty, required=True)
    empty.mkdir()
    with refused(IdentityKeyError, field=str(empty), limit="files CALLER[.NAME].pem"):
        TokenVerifier(empty, required=True)


def test_one_key_cannot_belong_to_two_callers(keys: Keys) -> None:
    (file,) = keys.public.glob("gateway.*.pem")
    copy = keys.public / "session.copy.pem"
    copy.write_bytes(file.read_bytes())
    with refused(IdentityKeyError, reason="DUPLICATE"):
        read_public_keys(keys.public)


def test_key_files_are_readable_by_their_owner_only(keys: Keys) -> None:
    files = [*keys.folder.glob("*.key"), *keys.public.iterdir()]
    assert len(files) == 4
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    with refused(IdentityKeyError, reason="EXISTS"):
        create_key_pair("gateway", keys.private("gateway"), keys.public)


def test_key_files_are_synced_before_and_after_they_get_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[Path, object]] = []

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        names = [entry.name for entry in path.iterdir()] if path.is_dir() else None
        synced.append((path if names else path.parent, names or path.read_bytes()))

    monkeypatch.setattr(os, "fsync", fsync)
    private, public = tmp_path / "own" / "gateway.key", tmp_path / "public"
    key_id = create_key_pair("gateway", private, public)
    public_file = public / f"gateway.{key_id}.pem"
    # The folders themselves are synced into tmp_path.
    assert [entry for entry in synced if entry[0] != tmp_path] == [
        (public, public_file.read_bytes()),
        (public, [public_file.name]),
        (private.parent, private.read_bytes()),
        (private.parent, ["gateway.key"]),
    ]


def test_retiring_without_the_new_public_key_removes_nothing(keys: Keys) -> None:
    before = sorted(keys.public.iterdir())
    with refused(IdentityKeyError, reason="MISMATCH"):
        retire_keys("gateway", keys.private("session"), keys.public)
    assert sorted(keys.public.iterdir()) == before


class Echo(enhancer_pb2_grpc.EnhancerServiceServicer):
    """Answers with the user of the call, after `proceed` is set."""

    def __init__(self) -> None:
        self.users: list[str] = []
        self.proceed = asyncio.Event()
        self.proceed.set()

    async def Enhance(
        self, request: enhancer_pb2.EnhanceRequest, context: Any
    ) -> enhancer_pb2.EnhanceResponse:
        await self.proceed.wait()
        self.users.append(require_caller().key)
        return enhancer_pb2.EnhanceResponse(text=self.users[-1])


@asynccontextmanager
async def echo_service(keys: Keys | None, **settings: object) -> AsyncIterator[tuple[Echo, int]]:
    echo, add = Echo(), enhancer_pb2_grpc.add_EnhancerServiceServicer_to_server
    values = {"port": 0, "lame_duck_seconds": 0, **settings}
    if keys:
        values["identity_keys"] = keys.public
    parsed = ServiceSettings.model_validate(values)
    async with serving(parsed, [Registration(NAME, add, echo)], CALLERS) as port:
        yield echo, port


async def enhance(port: int, signer: TokenSigner | None, caller: Caller = ADA) -> str:
    """Call the service on behalf of a user, on a new channel."""
    bind_call(CallContext(caller, "request"))
    async with open_channel(f"127.0.0.1:{port}", signer=signer) as channel:
        stub = enhancer_pb2_grpc.EnhancerServiceStub(channel)
        request = enhancer_pb2.EnhanceRequest(text="hello")
        response = await call_unary("enhancer", stub.Enhance, request, within_seconds=10)
    return str(response.text)


async def test_signed_call_of_an_allowed_service_is_answered(keys: Keys) -> None:
    async with echo_service(keys) as (_, port):
        assert await enhance(port, keys.signer("gateway")) == ADA.key


async def test_service_without_a_rule_for_the_method_is_denied(keys: Keys) -> None:
    async with echo_service(keys) as (echo, port):
        with refused(PermissionDeniedError, reason="PEER_NOT_ALLOWED"):
            await enhance(port, keys.signer("session"))
    assert echo.users == []


async def test_call_without_a_token_is_unauthenticated_before_the_handler(keys: Keys) -> None:
    metadata = (("x-tw-tenant", ADA.tenant), ("x-tw-user", ADA.user))
    async with (
        echo_service(keys) as (echo, port),
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        call = channel.unary_unary(METHOD)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", timeout=10, metadata=metadata)
        health = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=10
        )
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert from_rpc(caught.value, "enhancer").reason == "SERVICE_TOKEN_MISSING"
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert echo.users == []


async def test_refused_token_is_no_error_of_the_user(keys: Keys, tmp_path: Path) -> None:
    """The gateway must not answer 401, because the user's key is valid."""
    stranger = Keys(tmp_path / "stranger", "gateway")
    async with echo_service(keys) as (_, port):
        with refused(UnavailableError, reason="SERVICE_TOKEN_UNKNOWN_KEY") as caught:
            await enhance(port, stranger.signer("gateway"))
    assert not isinstance(caught.value, UnauthenticatedError)


async def test_unsigned_calls_are_answered_where_tokens_are_optional_or_off(keys: Keys) -> None:
    for settings in ({"keys": keys, "identity_required": False}, {"keys": None}):
        async with echo_service(**settings) as (_, port):
            assert await enhance(port, None) == ADA.key
            assert await enhance(port, keys.signer("gateway")) == ADA.key


async def test_rotation_fails_no_call(keys: Keys) -> None:
    signer = keys.signer("gateway")
    async with echo_service(keys) as (echo, port):
        echo.proceed.clear()
        running = [asyncio.create_task(enhance(port, signer)) for _ in range(3)]
        await asyncio.sleep(0)
        create_key_pair("gateway", keys.folder / "next.key", keys.public)
        running += [asyncio.create_task(enhance(port, signer)) for _ in range(3)]
        (keys.folder / "next.key").replace(keys.private("gateway"))
        running += [asyncio.create_task(enhance(port, signer)) for _ in range(3)]
        echo.proceed.set()
        assert await asyncio.gather(*running) == [ADA.key] * 9
        retire_keys("gateway", keys.private("gateway"), keys.public)
        assert await enhance(port, signer) == ADA.key
