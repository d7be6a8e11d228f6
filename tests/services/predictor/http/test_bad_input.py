"""Invalid input in one table.

Each error has OpenAI's format, names parameter and limit, and never quotes the caller.
"""

import io
import re
from typing import Any

import pytest

from services.predictor.errors import PredictorError
from tests.services.predictor.conftest import MAX_BODY_BYTES, Predictor

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SECRET = "my-secret-diary"
# Parts of a limit that the message must contain: numbers and quoted words.
VALUE = re.compile(r"\d+(?:\.\d+)?|'\w+'")
USER = [{"role": "user", "content": SECRET}]

# Path, body, status, parameter, reason, limit.
TABLE: list[tuple[str, dict[str, Any], int, str | None, str, str]] = [
    (CHAT, {"messages": []}, 400, "messages", "TOO_SMALL", "at least 1"),
    (CHAT, {}, 400, "messages", "MISSING", ""),
    (
        CHAT,
        {"messages": [{"role": "wizard", "content": SECRET}]},
        400,
        "messages.0.role",
        "UNSUPPORTED",
        "'system', 'developer', 'user' or 'assistant'",
    ),
    (
        CHAT,
        {"messages": [{"role": "developer", "content": SECRET}]},
        400,
        "messages",
        "REFUSED",
        "",
    ),
    (CHAT, {"messages": [{"role": "user"}]}, 400, "messages.0.content", "MISSING", ""),
    (
        CHAT,
        {"messages": [{"role": "user", "content": 7}]},
        400,
        "messages.0.content",
        "MALFORMED",
        "",
    ),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": SECRET}]}]},
        400,
        "messages",
        "UNSUPPORTED",
        "'text'",
    ),
    (CHAT, {"messages": USER, "temperature": 9}, 400, "temperature", "OUT_OF_RANGE", "at most 2"),
    (CHAT, {"messages": USER, "temperature": -1}, 400, "temperature", "OUT_OF_RANGE", "at least 0"),
    (
        CHAT,
        {"messages": USER, "temperature": 0.001},
        400,
        "temperature",
        "OUT_OF_RANGE",
        "0, or at least 0.01",
    ),
    (CHAT, {"messages": USER, "temperature": "0.5"}, 400, "temperature", "MALFORMED", ""),
    (
        CHAT,
        {"messages": USER, "temperature": float("nan")},
        400,
        "temperature",
        "OUT_OF_RANGE",
        "at most 2",
    ),
    (CHAT, {"messages": USER, "top_p": 0}, 400, "top_p", "OUT_OF_RANGE", "above 0"),
    (CHAT, {"messages": USER, "n": 2}, 400, "n", "UNSUPPORTED", "1"),
    (CHAT, {"messages": USER, "max_tokens": 0}, 400, "max_tokens", "OUT_OF_RANGE", "at least 1"),
    (CHAT, {"messages": USER, "max_tokens": 99999}, 400, "max_tokens", "TOO_LARGE", "2030"),
    (
        CHAT,
        {"messages": USER, "max_completion_tokens": 99999},
        400,
        "max_tokens",
        "TOO_LARGE",
        "2030",
    ),
    (
        CHAT,
        {"messages": [{"role": "user", "content": "x" * 3000}]},
        400,
        "messages",
        "TOO_LARGE",
        "2048",
    ),
    (
        CHAT,
        {"messages": USER, "logprobs": True, "top_logprobs": 5},
        400,
        "top_logprobs",
        "UNSUPPORTED",
        "0",
    ),
    (CHAT, {"messages": USER, "stop": ""}, 400, "stop", "TOO_SMALL", "at least 1"),
    (CHAT, {"messages": USER, "stop": ["a"] * 17}, 400, "stop", "TOO_LARGE", "at most 16"),
    (CHAT, {"messages": USER, "seed": -1}, 400, "seed", "OUT_OF_RANGE", "at least 0"),
    (
        CHAT,
        {"messages": USER, "presence_penalty": 3},
        400,
        "presence_penalty",
        "OUT_OF_RANGE",
        "at most 2",
    ),
    (CHAT, {"messages": USER, "tools": []}, 400, "tools", "UNKNOWN", ""),
    (
        CHAT,
        {"messages": USER, "stream_options": {"include_usage": True}},
        400,
        "stream_options",
        "INCOMPLETE",
        "",
    ),
    (
        CHAT,
        {"messages": USER, "min_tokens": 5, "max_tokens": 4},
        400,
        "min_tokens",
        "TOO_LARGE",
        "at most 4",
    ),
    (
        CHAT,
        {"messages": USER, "response_format": {"type": "json_object"}},
        400,
        "response_format.type",
        "UNSUPPORTED",
        "'text'",
    ),
    (CHAT, {"messages": USER, "model": "unknown"}, 404, "model", "UNKNOWN", ""),
    (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}, 400, None, "MALFORMED", "JSON"),
    (TEXT, {"prompt": ""}, 400, "prompt", "EMPTY", "at least 1 token"),
    (TEXT, {"prompt": []}, 400, "prompt", "EMPTY", "at least 1 token"),
    (TEXT, {"prompt": [1, 2, 262]}, 400, "prompt", "OUT_OF_RANGE", "0 to 261"),
    (TEXT, {"prompt": [1, -2]}, 400, "prompt", "OUT_OF_RANGE", "at least 0"),
    (TEXT, {"prompt": [1, True]}, 400, "prompt", "MALFORMED", ""),
    (TEXT, {"prompt": ["x"] * 65}, 400, "prompt", "OUT_OF_RANGE", "1 to 64"),
    (TEXT, {"prompt": "x", "logprobs": 5}, 400, "logprobs", "OUT_OF_RANGE", "at most 1"),
    (TEXT, {"prompt": "x", "max_tokens": 0}, 400, "max_tokens", "CONFLICT", "at least 1"),
    (TEXT, {"prompt": "x", "best_of": 3}, 400, "best_of", "UNSUPPORTED", "1"),
    (TEXT, {"prompt": ["x", "y"], "stream": True}, 400, "stream", "CONFLICT", ""),
    (TEXT, {"prompt": "x", "echo": True, "stream": True}, 400, "stream", "CONFLICT", ""),
    (
        TEXT,
        {"prompt": "x", "ignore_eos": True, "stop_token_ids": [3]},
        400,
        "ignore_eos",
        "CONFLICT",
        "",
    ),
    ("/tokenize", {}, 400, "prompt", "MISSING", ""),
    ("/tokenize", {"prompt": "x", "messages": USER}, 400, "prompt", "CONFLICT", ""),
    ("/detokenize", {"tokens": [262]}, 400, "tokens", "OUT_OF_RANGE", "0 to 261"),
]


async def test_each_invalid_request_is_refused_by_name_and_limit(
    predictor: Predictor, refusals: list[PredictorError]
) -> None:
    for path, body, expected, param, reason, limit in TABLE:
        status, answer = await predictor.post(path, {"model": "tiny-1", **body})
        case = f"{path} {body}: {answer}"
        assert status == expected, case
        error = answer["error"]
        assert set(error) == {"message", "type", "param", "code"}, case
        assert error["param"] == param or str(error["param"]).startswith(f"{param}."), case
        assert error["message"] == refusals[-1].text, case
        assert (refusals[-1].reason, refusals[-1].limit) == (reason, limit), case
        assert set(VALUE.findall(limit)) <= set(VALUE.findall(error["message"])), case
        assert SECRET not in str(answer), case


@pytest.mark.parametrize(
    ("raw", "expected", "reason", "limit"),
    [
        (b"", 400, "MALFORMED", "JSON"),
        (b"{", 400, "MALFORMED", "JSON"),
        (b"[]", 400, "MALFORMED", "a JSON object"),
        (b"\xff\xfe{}", 400, "MALFORMED", "UTF-8"),
        (b'"\xc3\x28"', 400, "MALFORMED", "UTF-8"),
        (b"[" * 100_000, 400, "MALFORMED", "JSON"),
        (
            b'{"model": "tiny-1", "prompt": "' + b"x" * MAX_BODY_BYTES + b'"}',
            413,
            "TOO_LARGE",
            f"{MAX_BODY_BYTES} bytes",
        ),
    ],
)
async def test_a_malformed_body_is_refused(
    predictor: Predictor,
    refusals: list[PredictorError],
    raw: bytes,
    expected: int,
    reason: str,
    limit: str,
) -> None:
    async with predictor.client.post(
        predictor.url + TEXT, data=io.BytesIO(raw), headers={"Content-Type": "application/json"}
    ) as response:
        assert response.status == expected
        assert (await response.json())["error"]["message"] == refusals[-1].text
    assert (refusals[-1].field, refusals[-1].reason, refusals[-1].limit) == ("body", reason, limit)


async def test_unknown_paths_and_methods_return_the_error_format_of_the_protocol(
    predictor: Predictor,
) -> None:
    status, answer = await predictor.get("/v1/embeddings")
    assert (status, answer["error"]["code"]) == (404, 404)
    status, answer = await predictor.get(TEXT)
    assert (status, answer["error"]["code"]) == (405, 405)
    status, answer = await predictor.get("/v2/nothing")
    assert (status, isinstance(answer["error"], str)) == (404, True)
    status, answer = await predictor.post("/v2/repository/models/x/load", {"parameters": {}})
    assert (status, "parameters.directory" in answer["error"]) == (400, True)
