"""The enhancer over a real socket, with its real word lists and linter."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc

from services.chassis.channel import open_channel
from services.chassis.errors import DETAILS_KEY
from services.chassis.server import Registration, serving
from services.enhancer.prompt import Enhancer
from services.enhancer.servicer import NAME, EnhancerServicer
from services.enhancer.settings import EnhancerSettings


@asynccontextmanager
async def client(enhancer: Enhancer) -> AsyncIterator[enhancer_pb2_grpc.EnhancerServiceStub]:
    add = enhancer_pb2_grpc.add_EnhancerServiceServicer_to_server
    settings = EnhancerSettings(port=0, drain_seconds=0, lame_duck_seconds=0)
    async with (
        serving(settings, [Registration(NAME, add, EnhancerServicer(enhancer))]) as port,
        open_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield enhancer_pb2_grpc.EnhancerServiceStub(channel)


async def test_corrected_text_is_returned_with_its_edits(enhancer: Enhancer) -> None:
    typed = "wat is teh captial of frnace"
    async with client(enhancer) as stub:
        response = await stub.Enhance(enhancer_pb2.EnhanceRequest(text=typed), timeout=10)
    assert response.text == "What is the capital of France?"
    rebuilt = typed
    for edit in reversed(response.edits):
        rebuilt = rebuilt[: edit.start] + edit.replacement + rebuilt[edit.end :]
    assert rebuilt == response.text
    assert [edit.kind for edit in response.edits][-1] == "punctuation"


@pytest.mark.parametrize(
    ("text", "skipped"),
    [
        ("¿Cómo estás hoy, amigo mío?", "language"),
        ("x = foo(1)", "code"),
        ("word " * 2_000, "too_long"),
    ],
)
async def test_skipped_text_is_returned_with_the_reason(
    enhancer: Enhancer, text: str, skipped: str
) -> None:
    async with client(enhancer) as stub:
        response = await stub.Enhance(enhancer_pb2.EnhanceRequest(text=text), timeout=10)
    assert (response.text, list(response.edits), response.skipped) == (text, [], skipped)


@pytest.mark.parametrize("text", ["", "a" * 32_769])
async def test_empty_or_too_long_text_is_refused_with_field_and_limit(
    enhancer: Enhancer, text: str
) -> None:
    async with client(enhancer) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Enhance(enhancer_pb2.EnhanceRequest(text=text), timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(dict(caught.value.trailing_metadata() or ())[DETAILS_KEY]).details[
        0
    ].Unpack(info)
    assert dict(info.metadata) == {"field": "text", "limit": "1 to 32,768 characters"}


async def test_error_of_a_too_long_text_contains_its_size_and_the_limit(
    enhancer: Enhancer,
) -> None:
    async with client(enhancer) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Enhance(enhancer_pb2.EnhanceRequest(text="a" * 32_771), timeout=10)
    details = caught.value.details() or ""
    assert "32,771" in details
    assert "32,768" in details
