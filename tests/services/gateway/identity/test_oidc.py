"""Tokens of a real issuer on loopback: accepted and rejected tokens, and changing keys (F25)."""

import asyncio
import base64
import json
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import HMACAlgorithm, RSAAlgorithm
from pydantic import ValidationError
from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import ServiceError, UnauthenticatedError, UnavailableError
from services.chassis.identity import Caller
from services.gateway.identity.credential import DEFAULT_SCOPES, Credential, Scope
from services.gateway.identity.issuers import Issuer as Rules
from services.gateway.identity.issuers import is_safe_url
from services.gateway.identity.oidc import OidcVerifier
from services.gateway.identity.signing_keys import KeyAgeLimits, SigningKeys
from services.gateway.peers.issuer import IssuerPeer
from services.gateway.settings import GatewaySettings
from tests.services.gateway.gateway_under_test import ADA, PRINCIPAL_KEY, run_gateway
from tests.services.gateway.issuer import AUDIENCE, Issuer, running_issuer

AGES = KeyAgeLimits(refresh_seconds=300, stale_seconds=3_600, retry_seconds=10)
LEEWAY_SECONDS = 30.0


class Clock:
    """Clock controlled by the test."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


class Trust:
    """An issuer, a verifier that trusts it, and the clock of the keys."""

    def __init__(self, issuer: Issuer, oidc: OidcVerifier, clock: Clock, keys: SigningKeys) -> None:
        self.issuer, self.oidc, self.clock, self.keys = issuer, oidc, clock, keys

    async def reason(self, token: str) -> str:
        """Return the reason of a rejection, or an empty string for a valid token."""
        try:
            await self.oidc.authenticate(token)
        except ServiceError as error:
            assert isinstance(error, UnauthenticatedError | UnavailableError)
            return error.reason
        return ""

    async def settled(self) -> None:
        """Wait until no fetch is running."""
        async with asyncio.timeout(5):
            while self.keys._fetching:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def trusting(fetch_seconds: float = 2.0, **rules: Any) -> AsyncIterator[Trust]:
    async with running_issuer() as issuer, aiohttp.ClientSession() as http:
        clock = Clock()
        keys = SigningKeys(
            issuer.url, IssuerPeer(http, issuer.url, fetch_seconds).signing_keys, AGES, clock
        )
        values = {"url": issuer.url, "audience": AUDIENCE, "tenant": "acme"} | rules
        yield Trust(
            issuer, OidcVerifier({issuer.url: (Rules(**values), keys)}, LEEWAY_SECONDS), clock, keys
        )
        await keys.close()


@pytest.fixture
async def trust() -> AsyncIterator[Trust]:
    async with trusting() as found:
        yield found


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_token_becomes_a_user_with_the_default_scopes(trust: Trust, algorithm: str) -> None:
    trust.issuer.add_key("mine", algorithm)
    assert await trust.oidc.authenticate(trust.issuer.token("mine")) == Credential(
        ADA, DEFAULT_SCOPES
    )


HOUR = 3_600


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": -31}, "TOKEN_EXPIRED"),
        ({"exp": -5}, ""),
        ({"nbf": 90}, "TOKEN_NOT_YET_VALID"),
        ({"nbf": 20}, ""),
        ({"iat": 90}, "TOKEN_NOT_YET_VALID"),
        ({"iat": 20}, ""),
        ({"iat": -HOUR, "nbf": -HOUR, "exp": HOUR}, ""),
    ],
)
async def test_token_times_are_checked_within_the_leeway(
    trust: Trust, claims: dict[str, float], reason: str
) -> None:
    now = time.time()
    times = {"iat": 0, "nbf": 0, "exp": 60} | claims
    token = trust.issuer.token(**{name: now + seconds for name, seconds in times.items()})
    assert await trust.reason(token) == reason


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"aud": "another"}, "TOKEN_AUDIENCE"),
        ({"aud": ["another", AUDIENCE]}, ""),
        ({"aud": None}, "TOKEN_CLAIMS"),
        ({"aud": 7}, "TOKEN_AUDIENCE"),
        ({"iss": "https://issuer.example"}, "TOKEN_ISSUER"),
        ({"iss": None}, "TOKEN_ISSUER"),
        ({"iss": ["a"]}, "TOKEN_ISSUER"),
        ({"exp": None}, "TOKEN_CLAIMS"),
        ({"iat": None}, "TOKEN_CLAIMS"),
        ({"exp": 1e400}, "TOKEN_INVALID"),
        ({"nbf": "soon"}, "TOKEN_INVALID"),
        ({"sub": None}, "TOKEN_CLAIMS"),
        ({"sub": "a/b"}, "TOKEN_CLAIMS"),
        ({"sub": "x" * 65}, "TOKEN_CLAIMS"),
        ({"sub": "auth0|5f7c8ec7"}, ""),
    ],
)
async def test_invalid_claims_are_rejected(
    trust: Trust, claims: dict[str, Any], reason: str
) -> None:
    issuer = trust.issuer
    changed = {**issuer.claims(), **claims}
    kept = {name: value for name, value in changed.items() if value is not None}
    # Encoded by hand, because PyJWT refuses to write some of these claims.
    algorithm, key = issuer.keys["first"]
    token = jwt.PyJWS().encode(json.dumps(kept).encode(), key, algorithm, {"kid": "first"})
    assert await trust.reason(token) == reason


def _part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _unsigned(issuer: Issuer) -> str:
    return f"{_part({'alg': 'none', 'kid': 'first'})}.{_part(issuer.claims())}."


def _signed(algorithm: str, key_id: str, issuer: Issuer, sign: Callable[[bytes], bytes]) -> str:
    """Sign by hand, because PyJWT refuses such keys."""
    signing = f"{_part({'alg': algorithm, 'kid': key_id})}.{_part(issuer.claims())}"
    return f"{signing}.{base64.urlsafe_b64encode(sign(signing.encode())).rstrip(b'=').decode()}"


def _hmac_with_the_public_key(issuer: Issuer) -> str:
    issuer.add_key("rsa", "RS256")
    public = (
        issuer.keys["rsa"][1]
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    hs256 = HMACAlgorithm(HMACAlgorithm.SHA256)
    return _signed("HS256", "rsa", issuer, lambda data: hs256.sign(data, public))


def _algorithm_of_another_key(issuer: Issuer) -> str:
    issuer.add_key("rsa", "RS256")
    return jwt.encode(issuer.claims(), issuer.keys["rsa"][1], "RS256", {"kid": "first"})


def _key_in_the_header(issuer: Issuer) -> str:
    """Return tokens signed by a key inside the token, in all forms of the standard."""
    own = rsa.generate_private_key(65_537, 2_048)
    entry = json.loads(RSAAlgorithm.to_jwk(own.public_key()))
    places = {
        "jwk": entry,
        "jku": f"{issuer.url}/evil-keys",
        "x5u": f"{issuer.url}/evil-certificates",
    }
    return jwt.encode(issuer.claims(), own, "RS256", {"kid": "first", **places})


def _critical(issuer: Issuer) -> str:
    return issuer.token(header={"crit": ["exp"]})


def _signature_of_another_token(issuer: Issuer) -> str:
    head, _, signature = issuer.token().split(".")
    return f"{head}.{_part(issuer.claims(sub='bob'))}.{signature}"


FORGERIES: list[Callable[[Issuer], str]] = [
    _unsigned,
    _hmac_with_the_public_key,
    _algorithm_of_another_key,
    _key_in_the_header,
    _critical,
    _signature_of_another_token,
    lambda issuer: issuer.token(header={"kid": "' OR 1=1 --"}),
    lambda issuer: issuer.token(header={"kid": "../../etc/passwd"}),
    lambda issuer: jwt.encode(issuer.claims(), issuer.keys["first"][1], "ES256"),
    lambda issuer: issuer.token() + "A",
    lambda issuer: issuer.token()[:-8],
    lambda issuer: issuer.token(much="x" * 9_000),
    lambda issuer: "",
    lambda issuer: "a.b.c",
    lambda issuer: ".." * 1_000,
    lambda issuer: f"{_part({'alg': 'ES256', 'kid': 7})}.{_part({'iss': issuer.url})}.AAAA",
    lambda issuer: f"{_part([1])}.{_part([1])}.AAAA",
    lambda issuer: f"{base64.urlsafe_b64encode(b'[' * 5_000).decode()}.e30.AAAA",
]


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__.strip("_<>"))
async def test_forged_token_is_rejected_and_its_urls_are_not_fetched(
    trust: Trust, forge: Callable[[Issuer], str]
) -> None:
    assert await trust.reason(forge(trust.issuer)) == "TOKEN_INVALID"
    assert trust.issuer.other_requests == []
    assert await trust.reason(trust.issuer.token()) == ""


async def test_disallowed_algorithm_is_rejected_even_with_the_issuers_key() -> None:
    async with trusting(algorithms=("ES256",)) as trust:
        trust.issuer.add_key("rsa", "RS256")
        assert await trust.reason(trust.issuer.token("rsa")) == "TOKEN_INVALID"
        assert await trust.reason(trust.issuer.token()) == ""


async def test_unusable_published_keys_do_not_hide_others(trust: Trust) -> None:
    weak_key = rsa.generate_private_key(65_537, 1_024)
    weak = json.loads(RSAAlgorithm.to_jwk(weak_key.public_key()))
    trust.issuer.extra_entries = [
        {"kty": "oct", "kid": "secret", "k": "c2VjcmV0", "alg": "HS256"},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        {"kty": "EC", "kid": ["list"], "crv": "P-256"},
        {"kty": "EC", "kid": "curve", "crv": ["P-256"]},
        {**trust.issuer.entries()[0], "kid": "encryption", "use": "enc"},
        {**weak, "kid": "weak"},
        "no object",
    ]
    assert await trust.reason(trust.issuer.token()) == ""
    for key_id in ("secret", "broken", "encryption"):
        assert await trust.reason(trust.issuer.token(header={"kid": key_id})) == "TOKEN_INVALID"
    rs256, hs256 = RSAAlgorithm(RSAAlgorithm.SHA256), HMACAlgorithm(HMACAlgorithm.SHA256)
    signed_weakly = _signed("RS256", "weak", trust.issuer, lambda data: rs256.sign(data, weak_key))
    signed_with_a_secret = _signed(
        "HS256", "secret", trust.issuer, lambda data: hs256.sign(data, b"secret")
    )
    for token in (signed_weakly, signed_with_a_secret):
        assert await trust.reason(token) == "TOKEN_INVALID"


async def test_new_key_is_found_at_once_and_withdrawn_key_is_dropped(trust: Trust) -> None:
    old = trust.issuer.token()
    assert await trust.reason(old) == ""
    trust.issuer.add_key("second", "EdDSA")
    trust.clock.seconds += AGES.retry_seconds
    assert await trust.reason(trust.issuer.token("second")) == ""
    assert await trust.reason(old) == ""
    del trust.issuer.keys["first"]
    trust.clock.seconds += AGES.refresh_seconds + 1
    # The old key is still valid for the call that triggers the refresh, then the key is gone.
    assert await trust.reason(old) == ""
    await trust.settled()
    assert await trust.reason(old) == "TOKEN_INVALID"
    assert await trust.reason(trust.issuer.token("second")) == ""


async def test_flood_of_unknown_keys_causes_one_fetch_per_interval(trust: Trust) -> None:
    good = trust.issuer.token()
    assert await trust.reason(good) == ""
    assert trust.issuer.fetches == 1
    for wave in range(1, 4):
        trust.clock.seconds += AGES.retry_seconds
        flood = [
            trust.reason(trust.issuer.token(header={"kid": f"k{wave}-{number}"}))
            for number in range(200)
        ]
        reasons = await asyncio.gather(*flood, trust.reason(good))
        assert reasons == ["TOKEN_INVALID"] * 200 + [""]
        assert trust.issuer.fetches == 1 + wave


async def test_cached_keys_are_valid_up_to_an_age_during_an_outage(trust: Trust) -> None:
    good, unknown = trust.issuer.token(), trust.issuer.token(header={"kid": "new"})
    assert await trust.reason(good) == ""
    trust.issuer.status = 503
    trust.clock.seconds += AGES.refresh_seconds + 1
    assert await trust.reason(good) == ""
    await trust.settled()
    assert trust.issuer.fetches == 2
    # Only the issuer can tell a new key from an invented one.
    assert await trust.reason(unknown) == "ISSUER_UNAVAILABLE"
    assert await trust.reason(good) == ""
    trust.clock.seconds += AGES.stale_seconds
    assert await trust.reason(good) == "ISSUER_UNAVAILABLE"
    assert trust.issuer.fetches == 3
    trust.issuer.status = 200
    assert await trust.reason(good) == "ISSUER_UNAVAILABLE"
    trust.clock.seconds += AGES.retry_seconds
    assert await trust.reason(good) == ""


async def test_hanging_issuer_briefly_delays_only_calls_with_a_new_key() -> None:
    async with trusting(fetch_seconds=0.3) as trust:
        good = trust.issuer.token()
        assert await trust.reason(good) == ""
        trust.issuer.delay_seconds = 60
        trust.clock.seconds += AGES.refresh_seconds + 1
        waiting = asyncio.create_task(trust.reason(trust.issuer.token(header={"kid": "new"})))
        await asyncio.sleep(0)
        assert await trust.reason(good) == ""
        assert not waiting.done()
        # Cancelling one caller does not cancel the fetch of the others.
        impatient = asyncio.create_task(trust.reason(trust.issuer.token(header={"kid": "newer"})))
        await asyncio.sleep(0.05)
        impatient.cancel()
        async with asyncio.timeout(10):
            assert await waiting == "ISSUER_UNAVAILABLE"


@pytest.mark.parametrize(
    "wrong",
    [
        {"discovery": {"issuer": "https://another.example"}},
        {"keys_host": "localhost"},
        {"discovery": {"jwks_uri": "file:///etc/passwd"}},
        {"discovery": {"jwks_uri": 7}},
        {"discovery": {"padding": ["x"] * 100_000}},
        {"status": 302},
        {"status": 500},
    ],
    ids=[
        "another issuer",
        "a name instead of loopback",
        "a file",
        "a number",
        "too long",
        "a redirect",
        "broken",
    ],
)
async def test_invalid_issuer_documents_are_rejected_and_redirects_ignored(
    trust: Trust, wrong: dict[str, Any]
) -> None:
    for name, value in wrong.items():
        setattr(trust.issuer, name, value)
    assert await trust.reason(trust.issuer.token()) == "ISSUER_UNAVAILABLE"
    assert trust.issuer.other_requests == []


@pytest.mark.parametrize(
    ("claims", "tenant", "scopes"),
    [
        ({"org": "acme"}, "acme", {Scope.CHAT}),
        (
            {"org": "umbrella", "groups": ["raters", "unknown", 7]},
            "umbrella",
            {Scope.CHAT, Scope.FEEDBACK},
        ),
        (
            {"org": "acme", "groups": "raters admins"},
            "acme",
            {Scope.CHAT, Scope.FEEDBACK, Scope.OPERATE},
        ),
        ({"org": "acme", "groups": ["reviewers"]}, "acme", {Scope.CHAT, Scope.REVIEW}),
        ({"org": "acme", "groups": {"admins": True}}, "acme", {Scope.CHAT}),
        ({"org": "globex"}, "", set()),
        ({"org": ["acme"]}, "", set()),
        ({}, "", set()),
    ],
)
async def test_claims_are_mapped_to_tenant_user_and_scopes(
    claims: dict[str, Any], tenant: str, scopes: set[Scope]
) -> None:
    rules = {
        "tenant": "",
        "tenant_claim": "org",
        "tenants": frozenset({"acme", "umbrella"}),
        "user_claim": "email",
        "scopes": frozenset({Scope.CHAT}),
        "scope_claim": "groups",
        "scopes_by_value": {
            "raters": frozenset({Scope.FEEDBACK}),
            "admins": frozenset({Scope.OPERATE}),
            "reviewers": frozenset({Scope.REVIEW}),
        },
    }
    async with trusting(**rules) as trust:
        token = trust.issuer.token(email="ada@acme.example", **claims)
        if tenant:
            credential = Credential(Caller(tenant, "ada@acme.example"), frozenset(scopes))
            assert await trust.oidc.authenticate(token) == credential
        else:
            assert await trust.reason(token) == "TOKEN_CLAIMS"


async def test_mutated_tokens_are_rejected_without_a_crash(trust: Trust) -> None:
    randomness = random.Random(25)
    token = trust.issuer.token()
    alphabet = "ABCabc019-_.=%\0é"
    for _ in range(3_000):
        place, length = randomness.randrange(len(token)), randomness.randrange(4)
        middle = "".join(randomness.choices(alphabet, k=randomness.randrange(4)))
        mutant = token[:place] + middle + token[place + length :]
        if mutant != token:
            assert await trust.reason(mutant) in ("TOKEN_INVALID", "TOKEN_ISSUER")


async def test_keys_and_tokens_use_the_same_header(tmp_path: Any) -> None:
    async with running_issuer() as issuer:
        entry = {"issuer": issuer.url, "audience": AUDIENCE, "tenant": "acme"}
        async with run_gateway(tmp_path, oidc_issuers=(entry,)) as gateway:
            token = issuer.token()
            turn = await gateway.ask(key=token)
            # Key and token of the same user.
            request = chat_pb2.GetConversationRequest(
                conversation_id=turn[0].started.conversation_id
            )
            await gateway.chat.GetConversation(request, timeout=5, metadata=gateway.metadata())
            assert gateway.fakes.generator.users == [ADA.key]
            for path, status, code in (
                ("/api/conversations", 200, ""),
                ("/api/rollout", 403, "scope_missing"),
            ):
                async with gateway.http.get(
                    gateway.url + path, headers=gateway.headers(token)
                ) as response:
                    assert response.status == status
                    assert not code or (await response.json())["error"]["code"] == code
            for wrong in (issuer.token(exp=time.time() - 60), token[:-4], "tw_" + "A" * 43):
                async with gateway.http.get(
                    gateway.url + "/api/conversations", headers=gateway.headers(wrong)
                ) as response:
                    assert response.status == 401


ENTRY = {"issuer": "https://issuer.example", "audience": "thumbwheel", "tenant": "acme"}


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "http://issuer.example"},
        {"issuer": "file:///keys"},
        {"audience": ""},
        {"tenant": ""},
        {"tenant": "a/b"},
        {"tenant_claim": "org", "tenants": ["acme"]},
        {"tenant": "", "tenant_claim": "org"},
        {"scope_claim": "groups"},
        {"scopes": ["fly"]},
        {"algorithms": ["HS256"]},
        {"algorithms": ["none"]},
        {"algorithms": []},
        {"audiense": "thumbwheel"},
    ],
    ids=str,
)
def test_inconsistent_issuer_settings_are_rejected(changes: dict[str, Any]) -> None:
    base = {"principal_key": PRINCIPAL_KEY}
    assert (
        GatewaySettings.model_validate({**base, "oidc_issuers": [ENTRY]})
        .oidc_issuers[0]
        .rules()
        .tenant
        == "acme"
    )
    with pytest.raises(ValidationError):
        GatewaySettings.model_validate({**base, "oidc_issuers": [{**ENTRY, **changes}]})
    with pytest.raises(ValidationError) as caught:
        GatewaySettings.model_validate({**base, "oidc_issuers": [ENTRY, ENTRY]})
    (wrong,) = caught.value.errors()
    assert (wrong["loc"], wrong["type"], "oidc_issuers" in wrong["msg"]) == ((), "duplicate", True)


def test_issuers_are_read_from_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TW_GATEWAY_PRINCIPAL_KEY", PRINCIPAL_KEY)
    monkeypatch.setenv("TW_GATEWAY_OIDC_ISSUERS", json.dumps([ENTRY]))
    assert GatewaySettings().oidc_issuers[0].issuer == "https://issuer.example"


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://issuer.example", True),
        ("http://127.0.0.1:8080/realm", True),
        ("http://[::1]/realm", True),
        ("http://localhost.evil.example", False),
        ("http://127.0.0.1.evil.example", False),
        ("http://169.254.169.254", False),
        ("http://10.0.0.1", False),
        ("https://", False),
        ("ftp://127.0.0.1", False),
        ("", False),
    ],
)
def test_only_https_and_loopback_urls_are_safe(url: str, safe: bool) -> None:
    assert is_safe_url(url) is safe
