"""Privacy (S2): no user text and no key in logs, metrics or spans.

Canaries are in every field of every RPC, in bodies, paths, queries and headers, while all services
work and while each of them fails.
"""

import io
import itertools
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import generate_latest

from services.chassis.calls import interceptor
from services.chassis.telemetry import LineFormatter
from services.gateway.access import ROUTES
from services.gateway.http import app
from tests.services.gateway.fakes import BAD_WORD, FORBIDDEN, SAMPLE, Backends
from tests.services.gateway.gateway_under_test import GatewayUnderTest, run_gateway
from tests.services.gateway.issuer import AUDIENCE, Issuer, running_issuer
from tests.services.gateway.mutations import UUID
from tests.services.gateway.valid_calls import METHODS, VALID

LEAST_CANARIES = 200


class Canaries:
    """Unique words, each with the place of its use."""

    def __init__(self) -> None:
        self.places: dict[str, str] = {}

    def new(self, place: str) -> str:
        word = f"canary{len(self.places):05d}x"
        self.places[word] = place
        return word

    def found_in(self, text: str) -> list[str]:
        """Return the places of the canaries found in a text."""
        return [self.places[word] for word in sorted(set(re.findall(r"canary\d{5}x", text)))]


class Seen:
    """All output of a service except its answers."""

    def __init__(self) -> None:
        self.logs, self._spans = io.StringIO(), InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._spans))

    def texts(self) -> dict[str, str]:
        spans = "\n".join(span.to_json() for span in self._spans.get_finished_spans())
        return {"logs": self.logs.getvalue(), "metrics": generate_latest().decode(), "spans": spans}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Seen]:
    watching = Seen()
    for module in (interceptor, app):
        monkeypatch.setattr(module, "tracer", lambda: watching.provider.get_tracer("thumbwheel"))
    # Formats as in `configure_logs`, in text and JSON, with own loggers at level debug.
    root, ours = logging.getLogger(), logging.getLogger("services")
    handlers = [logging.StreamHandler(watching.logs) for _ in range(2)]
    for handler, as_json in zip(handlers, (False, True), strict=True):
        handler.setFormatter(LineFormatter("gateway", as_json))
        root.addHandler(handler)
    level = ours.level
    ours.setLevel(logging.DEBUG)
    yield watching
    ours.setLevel(level)
    for handler in handlers:
        root.removeHandler(handler)


def _fails_with_the_users_words(fakes: Backends) -> None:
    """Raise a third-party exception with the user's text in its message."""

    async def fail() -> None:
        raise RuntimeError(f"cannot judge {fakes.guardrail.outputs[-1].prompt}")

    fakes.guardrail.before_verdict = fail


# Name and prefix of each credential.
STATES: dict[str, Callable[[Backends], None]] = {
    "all well": lambda fakes: None,
    "guardrail away": lambda fakes: setattr(fakes.guardrail, "away", True),
    "enhancer away": lambda fakes: setattr(fakes.enhancer, "away", True),
    "session away": lambda fakes: setattr(fakes.session, "away", True),
    "generator away": lambda fakes: setattr(fakes.generator, "away", True),
    "feedback away": lambda fakes: setattr(fakes.feedback, "away", True),
    "review away": lambda fakes: setattr(fakes.review, "away", True),
    "generator breaks": lambda fakes: setattr(fakes.generator, "breaks_after", 1),
    "guardrail crashes": _fails_with_the_users_words,
    "no verdicts": lambda fakes: setattr(fakes.guardrail, "gives_verdicts", False),
    "answer is bad": lambda fakes: setattr(fakes.generator, "deltas", ["well, ", BAD_WORD]),
}


def _text_fields(descriptor: Descriptor, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for field in descriptor.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            yield (*path, field.json_name)
        elif field.message_type is not None and len(path) < 3:
            yield from _text_fields(field.message_type, (*path, field.json_name))


TEXT_FIELDS = [(method, path) for method in METHODS for path in _text_fields(method.input_type)]


def _request(method: MethodDescriptor, path: tuple[str, ...], word: str, answer_id: str) -> Any:
    """Return a valid request except for one field."""
    message = GetMessageClass(method.input_type)()
    for field in method.input_type.fields:
        if field.name == "message_id":
            message.message_id = answer_id
    json_format.ParseDict(VALID.get(method.name, {}), message)
    part: Any = message
    for name in path[:-1]:
        field = part.DESCRIPTOR.fields_by_camelcase_name[name]
        part = getattr(part, field.name)
        part = part.add() if field.is_repeated else part
    field = part.DESCRIPTOR.fields_by_camelcase_name[path[-1]]
    if field.is_repeated:
        getattr(part, field.name).append(word)
    else:
        setattr(part, field.name, word)
    return message


async def _call(
    gateway: GatewayUnderTest, method: MethodDescriptor, request: Any, metadata: Any
) -> None:
    channel: Any = gateway.channel
    path, data = (
        f"/{method.containing_service.full_name}/{method.name}",
        request.SerializeToString(),
    )
    try:
        if method.server_streaming:
            async for _ in channel.unary_stream(path)(data, timeout=20, metadata=metadata):
                pass
        else:
            await channel.unary_unary(path)(data, timeout=20, metadata=metadata)
    except grpc.aio.AioRpcError:
        pass


async def _http(
    gateway: GatewayUnderTest,
    route: str,
    headers: dict[str, str],
    body: bytes = b"",
    query: str = "",
) -> None:
    method, path = route.split(" ")
    async with gateway.http.request(
        method, gateway.url + path + query, data=body, headers=headers
    ) as response:
        await response.read()


@asynccontextmanager
async def _open(directory: Path) -> AsyncIterator[tuple[GatewayUnderTest, Issuer]]:
    async with running_issuer() as issuer:
        entry = {"issuer": issuer.url, "audience": AUDIENCE, "tenant": "acme"}
        async with run_gateway(directory, oidc_issuers=(entry,), finish_seconds=0.2) as gateway:
            yield gateway, issuer


async def test_no_canary_and_no_key_is_in_logs_metrics_or_spans(tmp_path: Path, seen: Seen) -> None:
    canaries = Canaries()
    async with _open(tmp_path) as (gateway, issuer):
        for state, begin in STATES.items():
            # Created again, because each state ends with an erasure.
            answer_id = (await gateway.ask())[0].message_id
            with _state(gateway.fakes, begin):
                await _through_every_rpc(gateway, canaries, state, answer_id)
                await _through_every_route(gateway, canaries, state)
        tokens = await _through_the_header(gateway, issuer, canaries)
        # Proof of the test itself: the canaries reached the services and came back.
        assert any(canaries.found_in(str(request)) for request in gateway.fakes.generator.requests)
        assert any(
            canaries.found_in(message.text) for message in gateway.fakes.session.messages.values()
        )
        assert any(request.sample == SAMPLE for request in gateway.fakes.session.finished.values())
        secrets = [gateway.key, gateway.other_key, gateway.key.removeprefix("tw_"), *tokens]
    assert len(canaries.places) >= LEAST_CANARIES
    for where, text in seen.texts().items():
        assert canaries.found_in(text) == [], where
        assert not any(str(token) in text for token in SAMPLE.token_ids), where
        assert [secret for secret in secrets if secret in text] == [], where
    assert len(seen.texts()["logs"].splitlines()) > 2 * LEAST_CANARIES
    assert "at=" in seen.texts()["logs"], "no crash was logged"
    assert len(seen.texts()["spans"]) > 100 * LEAST_CANARIES


async def _through_every_rpc(
    gateway: GatewayUnderTest, canaries: Canaries, state: str, answer_id: str
) -> None:
    for method, path in TEXT_FIELDS:
        word = canaries.new(f"{state}: {method.name} {'.'.join(path)}")
        gateway.fakes.generator.deltas[0] = f"{word} "
        if path[-1] == "text" and len(canaries.places) % 2:
            word = f"{word} {FORBIDDEN}"
        await _call(gateway, method, _request(method, path, word, answer_id), gateway.metadata())


async def _through_every_route(gateway: GatewayUnderTest, canaries: Canaries, state: str) -> None:
    for route in ROUTES:
        word = canaries.new(f"{state}: {route}")
        named = re.sub(r"\{\w+\}", word, route)
        body = json.dumps({word: word, "input": {"text": word, word: 1}}).encode()
        await _http(
            gateway,
            named,
            gateway.headers(),
            body,
            f"?page_size={word}&page_token={word}&after={word}",
        )
        await _http(gateway, named + word, gateway.headers(), word.encode())
    completion = {
        "model": "thumbwheel",
        "messages": [{"role": "user", "content": canaries.new("completion")}],
    }
    for wrong in (
        {},
        {"user": canaries.new("user")},
        {"tools": [canaries.new("tools")]},
        {"model": canaries.new("model")},
    ):
        body = json.dumps(completion | wrong).encode()
        await _http(gateway, "POST /v1/chat/completions", gateway.headers(), body)


async def _through_the_header(
    gateway: GatewayUnderTest, issuer: Issuer, canaries: Canaries
) -> list[str]:
    """Send all kinds of credentials and invalid request ids in headers. Returns the tokens."""
    now = time.time()
    claims: list[dict[str, Any]] = [
        {},
        {"exp": now - 90},
        {"aud": canaries.new("aud")},
        {"sub": canaries.new("sub") + "/"},
        {"iss": canaries.new("iss")},
    ]
    tokens = [issuer.token(jti=canaries.new("jti"), **changed) for changed in claims]
    tokens.append(issuer.token(header={"kid": canaries.new("kid")}))
    authenticator = [
        f"tw_{canaries.new('key'):A<43}",
        f"tw_{canaries.new('short')}",
        canaries.new("no bearer"),
        *tokens,
    ]
    get = next(method for method in METHODS if method.name == "ListConversations")
    empty = GetMessageClass(get.input_type)()
    for bearer, scheme in itertools.product(authenticator, ("Bearer", canaries.new("scheme"))):
        request_id = f"a name: {canaries.new('request id')}"
        metadata = (
            ("authorization", f"{scheme} {bearer}"),
            ("x-request-id", request_id),
            ("x-tw-user", bearer[:40]),
        )
        await _call(gateway, get, empty, metadata)
        headers = {
            "authorization": f"{scheme} {bearer}",
            "x-request-id": request_id,
            "cookie": f"tw_session={bearer}",
        }
        await _http(gateway, "GET /api/conversations", headers)
        await _http(gateway, "GET /api/loop/report/one", {"cookie": f"tw_session={bearer}"})
    return tokens


@contextmanager
def _state(fakes: Backends, begin: Callable[[Backends], None]) -> Iterator[None]:
    begin(fakes)
    yield
    for fake in (fakes.guardrail, fakes.enhancer, fakes.session, fakes.generator, fakes.feedback):
        fake.away = False
    fakes.generator.deltas, fakes.generator.breaks_after = ["The ", "answer ", "is ", "42."], None
    fakes.guardrail.before_verdict, fakes.guardrail.gives_verdicts = None, True


def test_recorder_detects_a_leaked_canary(seen: Seen) -> None:
    canaries = Canaries()
    logging.getLogger("services.gateway").warning("the user said %s", canaries.new("a log line"))
    with seen.provider.get_tracer("thumbwheel").start_as_current_span(canaries.new("a span")):
        pass
    assert canaries.found_in(seen.texts()["logs"]) == ["a log line"]
    assert canaries.found_in(seen.texts()["spans"]) == ["a span"]
    assert UUID not in seen.texts()["metrics"]
