"""Bad input, in one table: an error in OpenAI's shape that names the parameter and the limit, and never quotes the caller."""

import io
from typing import Any

import pytest

from tests.services.predictor.conftest import MAX_BODY_BYTES, Predictor

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
SECRET = "my-secret-diary"
USER = [{"role": "user", "content": SECRET}]

TABLE: list[tuple[str, dict[str, Any], int, str | None, str]] = [
    (CHAT, {"messages": []}, 400, "messages", "at least 1 item"),
    (CHAT, {}, 400, "messages", "required"),
    (CHAT, {"messages": [{"role": "wizard", "content": SECRET}]}, 400, "messages.0.role", "'system'"),
    (CHAT, {"messages": [{"role": "developer", "content": SECRET}]}, 400, "messages", "roles are system"),
    (CHAT, {"messages": [{"role": "user"}]}, 400, "messages.0.content", "required"),
    (CHAT, {"messages": [{"role": "user", "content": 7}]}, 400, "messages.0.content", "string"),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": SECRET}]}]},
        400,
        "messages",
        "",
    ),
    (CHAT, {"messages": USER, "temperature": 9}, 400, "temperature", "less than or equal to 2"),
    (CHAT, {"messages": USER, "temperature": -1}, 400, "temperature", "greater than or equal to 0"),
    (CHAT, {"messages": USER, "temperature": 0.001}, 400, "temperature", "at least 0.01"),
    (CHAT, {"messages": USER, "temperature": "0.5"}, 400, "temperature", "number"),
    (CHAT, {"messages": USER, "temperature": float("nan")}, 400, "temperature", ""),
    (CHAT, {"messages": USER, "top_p": 0}, 400, "top_p", "greater than 0"),
    (CHAT, {"messages": USER, "n": 2}, 400, "n", "should be 1"),
    (CHAT, {"messages": USER, "max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
    (CHAT, {"messages": USER, "max_tokens": 99999}, 400, "max_tokens", "the limit is 2030"),
    (CHAT, {"messages": USER, "max_completion_tokens": 99999}, 400, "max_tokens", "the limit is 2030"),
    (CHAT, {"messages": [{"role": "user", "content": "x" * 3000}]}, 400, "messages", "the limit is 2048"),
    (CHAT, {"messages": USER, "logprobs": True, "top_logprobs": 5}, 400, "top_logprobs", "should be 0"),
    (CHAT, {"messages": USER, "stop": ""}, 400, "stop", "at least 1 character"),
    (CHAT, {"messages": USER, "stop": ["a"] * 17}, 400, "stop", ""),
    (CHAT, {"messages": USER, "seed": -1}, 400, "seed", "greater than or equal to 0"),
    (CHAT, {"messages": USER, "presence_penalty": 3}, 400, "presence_penalty", "less than or equal to 2"),
    (CHAT, {"messages": USER, "tools": []}, 400, "tools", "not a parameter"),
    (CHAT, {"messages": USER, "stream_options": {"include_usage": True}}, 400, "stream_options", "needs stream"),
    (CHAT, {"messages": USER, "min_tokens": 5, "max_tokens": 4}, 400, "min_tokens", "at most max_tokens, 4"),
    (CHAT, {"messages": USER, "response_format": {"type": "json_object"}}, 400, "response_format.type", "'text'"),
    (CHAT, {"messages": USER, "model": "nobody"}, 404, "model", "no such version"),
    (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}, 400, None, "valid JSON"),
    (TEXT, {"prompt": ""}, 400, "prompt", "at least 1 token"),
    (TEXT, {"prompt": []}, 400, "prompt", "at least 1 token"),
    (TEXT, {"prompt": [1, 2, 262]}, 400, "prompt", "from 0 to 261"),
    (TEXT, {"prompt": [1, -2]}, 400, "prompt", "greater than or equal to 0"),
    (TEXT, {"prompt": [1, True]}, 400, "prompt", ""),
    (TEXT, {"prompt": ["x"] * 65}, 400, "prompt", "1 to 64 prompts"),
    (TEXT, {"prompt": "x", "logprobs": 5}, 400, "logprobs", "less than or equal to 1"),
    (TEXT, {"prompt": "x", "max_tokens": 0}, 400, "max_tokens", "at least 1 unless echo"),
    (TEXT, {"prompt": "x", "best_of": 3}, 400, "best_of", "should be 1"),
    (TEXT, {"prompt": ["x", "y"], "stream": True}, 400, "stream", "exactly one prompt"),
    (TEXT, {"prompt": "x", "echo": True, "stream": True}, 400, "stream", "no echo"),
    (TEXT, {"prompt": "x", "ignore_eos": True, "stop_token_ids": [3]}, 400, "ignore_eos", "stop_token_ids"),
    ("/tokenize", {}, 400, "prompt", "must be given"),
    ("/tokenize", {"prompt": "x", "messages": USER}, 400, "prompt", "not both"),
    ("/detokenize", {"tokens": [262]}, 400, "tokens", "from 0 to 261"),
]


async def test_each_bad_request_is_refused_by_name_and_limit(predictor: Predictor) -> None:
    for path, body, expected, param, text in TABLE:
        status, answer = await predictor.post(path, {"model": "tiny-1", **body})
        case = f"{path} {body}: {answer}"
        assert status == expected, case
        error = answer["error"]
        assert set(error) == {"message", "type", "param", "code"}, case
        assert error["param"] == param or str(error["param"]).startswith(f"{param}."), case
        assert text in error["message"], case
        assert SECRET not in str(answer), case


@pytest.mark.parametrize(
    ("raw", "expected", "text"),
    [
        (b"", 400, "JSON"),
        (b"{", 400, "JSON"),
        (b"[]", 400, "JSON object"),
        (b"\xff\xfe{}", 400, "UTF-8"),
        (b'"\xc3\x28"', 400, "UTF-8"),
        (b"[" * 100_000, 400, "JSON"),
        (b'{"model": "tiny-1", "prompt": "' + b"x" * MAX_BODY_BYTES + b'"}', 413, str(MAX_BODY_BYTES)),
    ],
)
async def test_a_body_that_is_no_request_is_refused(predictor: Predictor, raw: bytes, expected: int, text: str) -> None:
    async with predictor.client.post(predictor.url + TEXT, data=io.BytesIO(raw)) as response:
        assert response.status == expected
        assert text in (await response.json())["error"]["message"]


async def test_unknown_paths_and_methods_are_answered_in_the_protocols_shape(predictor: Predictor) -> None:
    status, answer = await predictor.get("/v1/embeddings")
    assert (status, answer["error"]["code"]) == (404, 404)
    status, answer = await predictor.get(TEXT)
    assert (status, answer["error"]["code"]) == (405, 405)
    status, answer = await predictor.get("/v2/nothing")
    assert (status, isinstance(answer["error"], str)) == (404, True)
    status, answer = await predictor.post("/v2/repository/models/x/load", {"parameters": {}})
    assert (status, "parameters.directory" in answer["error"]) == (400, True)
