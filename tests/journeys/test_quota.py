"""An exhausted quota in all APIs: rejection with a retry time, other users unaffected."""

import time
import urllib.error

import grpc
import openai
import pytest
from google.rpc import error_details_pb2, status_pb2
from thumbwheel.chat.v1 import chat_pb2, chat_pb2_grpc

from tests.journeys.client import Client, finish_of
from tests.journeys.stack import FRUGAL_REQUESTS, FRUGAL_TENANT, Stack

# A minute, in steps of two seconds.
LONGEST_SECONDS = 62


def used_up(stack: Stack, name: str) -> Client:
    """Return a user with an exhausted request quota."""
    client = Client(stack.http, stack.make_keys(name, tenant=FRUGAL_TENANT)[0])
    for _ in range(FRUGAL_REQUESTS):
        assert finish_of(client.ask("hello"))
    return client


def test_http_returns_429_with_limit_and_retry_time(stack: Stack) -> None:
    began = time.monotonic()
    client = used_up(stack, "frugal-http")
    with pytest.raises(urllib.error.HTTPError) as caught:
        client._open("POST", "/api/messages", {"input": {"text": "hello"}})
    caught.value.close()
    assert caught.value.code == 429
    assert (
        LONGEST_SECONDS
        >= int(caught.value.headers["retry-after"])
        > 50 - (time.monotonic() - began)
    )
    status, body = client.call("POST", "/api/messages", {"input": {"text": "hello"}})
    assert (status, body["error"]["type"], body["error"]["code"]) == (
        429,
        "rate_limit_error",
        "rate_limited",
    )
    assert str(FRUGAL_REQUESTS) in body["error"]["message"]
    with (
        openai.OpenAI(base_url=f"{stack.http}/v1", api_key=client.key, max_retries=0) as api,
        pytest.raises(openai.RateLimitError) as refused,
    ):
        api.chat.completions.create(
            model="thumbwheel", messages=[{"role": "user", "content": "hello"}]
        )
    assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "0"


def test_grpc_returns_resource_exhausted_with_a_retry_delay(stack: Stack) -> None:
    began = time.monotonic()
    client = used_up(stack, "frugal-grpc")
    metadata = (("authorization", f"Bearer {client.key}"),)
    request = chat_pb2.SendMessageRequest(input=chat_pb2.UserInput(text="hello"))
    with grpc.insecure_channel(stack.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        list(
            chat_pb2_grpc.ChatServiceStub(channel).SendMessage(
                request, timeout=30, metadata=metadata
            )
        )
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    details = status_pb2.Status.FromString(
        dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
    ).details
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert details[0].Unpack(info)
    assert details[1].Unpack(retry)
    assert (info.reason, info.metadata["limit"]) == (
        "RATE_LIMITED",
        f"{FRUGAL_REQUESTS} requests per minute of a user",
    )
    assert LONGEST_SECONDS >= retry.retry_delay.seconds > 50 - (time.monotonic() - began)


def test_other_users_of_the_tenant_are_unaffected(stack: Stack) -> None:
    used_up(stack, "frugal-one")
    other = Client(stack.http, stack.make_keys("frugal-two", tenant=FRUGAL_TENANT)[0])
    assert finish_of(other.ask("hello"))
