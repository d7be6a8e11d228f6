"""Attacks on the inner port of the model server: without its key, by a web page, by rebinding."""

import json
from collections.abc import Mapping

import pytest

from tests.attacks.attacked import Attacked
from tests.support.http1 import RawAnswer, raw_request

CHAT = {"model": "nano-0", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
# Method, path and body of each call that reads or changes something.
CALLS: Mapping[str, tuple[str, str, object]] = {
    "unload": ("POST", "/v2/repository/models/nano-0/unload", {}),
    "load": (
        "POST",
        "/v2/repository/models/evil/load",
        {"parameters": {"directory": "/etc"}},
    ),
    "index": ("POST", "/v2/repository/index", {}),
    "chat": ("POST", "/v1/chat/completions", CHAT),
    "completion": ("POST", "/v1/completions", {"model": "nano-0", "prompt": "hello"}),
    "tokenize": ("POST", "/tokenize", {"model": "nano-0", "prompt": "hello"}),
    "detokenize": ("POST", "/detokenize", {"model": "nano-0", "tokens": [1]}),
    "models": ("GET", "/v1/models", None),
    "readiness": ("GET", "/v2/models/nano-0/ready", None),
    "metrics": ("GET", "/metrics", None),
    "missing": ("GET", "/missing", None),
}
JSON, TEXT = "Content-Type: application/json", "Content-Type: text/plain"
ORIGIN = "Origin: http://evil.example"


async def call(attacked: Attacked, name: str, *headers: str, host: str = "127.0.0.1") -> RawAnswer:
    """Call the model server with some headers and return its answer."""
    method, path, content = CALLS[name]
    body = "" if content is None else json.dumps(content)
    head = (
        f"{method} {path} HTTP/1.1",
        f"Host: {host}",
        "Connection: close",
        f"Content-Length: {len(body)}",
        *headers,
    )
    data = "\r\n".join((*head, "", body)).encode()
    return await raw_request(attacked.stack.ports["predictor"], data)


def key_of(attacked: Attacked) -> str:
    """Return the header with the key of the model server."""
    key = (attacked.stack.state / "model-server.key").read_text().strip()
    return f"Authorization: Bearer {key}"


@pytest.mark.parametrize("name", CALLS)
async def test_call_without_the_key_is_refused(attacked_system: Attacked, name: str) -> None:
    """Attack A12: every local process could unload the model of all users."""
    users_key = f"Authorization: Bearer {attacked_system.attacker.key}"
    for key in (
        (),
        ("Authorization: Bearer ",),
        (users_key,),
        (users_key, key_of(attacked_system)),
    ):
        answer = await call(attacked_system, name, JSON, *key)
        assert answer.status == 401
        assert b"nano-0" not in answer.body


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("headers", "host"),
    [((ORIGIN, JSON), "127.0.0.1"), ((ORIGIN, TEXT), "127.0.0.1"), ((JSON,), "evil.example")],
    ids=["page", "page without preflight", "rebinding"],
)
async def test_web_page_is_refused_even_with_the_key(
    attacked_system: Attacked, name: str, headers: tuple[str, ...], host: str
) -> None:
    key = key_of(attacked_system)
    answer = await call(attacked_system, name, *headers, key, host=host)
    assert answer.status == 403
    assert b"access-control-" not in answer.head


async def test_model_is_still_served(attacked: Attacked) -> None:
    """The calls with the key are answered, so the refusals above have a cause."""
    for name in ("unload", "load", "chat"):
        assert (await call(attacked, name, TEXT, key_of(attacked))).status == 415
        assert (await call(attacked, name, ORIGIN, TEXT)).status == 403
    answer = await call(attacked, "models", key_of(attacked))
    assert answer.status == 200
    assert b"nano-0" in answer.body
