"""F43: extreme input is rejected with a clear error, and the next call is served.

Cases: oversized messages, endless metadata, invalid Unicode, deeply nested JSON, over gRPC and
HTTP.
"""

import io
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.session.v1 import session_pb2

from tests.services.gateway.gateway_under_test import GatewayUnderTest, run_gateway, text_of
from tests.services.session.service import (
    ADA,
    Home,
    begin,
    error_of,
    finish,
    read_messages,
    session_service,
    talk,
)

SEND = "/thumbwheel.chat.v1.ChatService/SendMessage"
REFUSED = {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}
MIB = 1 << 20
TURNS = 10_000
COMPARED = 100  # last turns


def message(text: bytes) -> bytes:
    """Return SendMessageRequest{input{text}} in wire format, with arbitrary bytes as text."""
    return field(b"\x1a", field(b"\x0a", text))


def field(tag: bytes, value: bytes) -> bytes:
    """Return a length-delimited field."""
    length, size = b"", len(value)
    while size > 0x7F:
        length, size = length + bytes([size & 0x7F | 0x80]), size >> 7
    return tag + length + bytes([size]) + value


def user_input(text: str) -> bytes:
    return chat_pb2.SendMessageRequest(input=chat_pb2.UserInput(text=text)).SerializeToString()


def test_hand_made_bytes_equal_those_of_protobuf() -> None:
    assert message(b"x" * 1_000) == user_input("x" * 1_000)


@dataclass(frozen=True)
class Sent:
    """Bytes sent over gRPC with metadata. `served` means unusual but valid."""

    data: bytes
    metadata: tuple[tuple[str, str], ...] = ()
    served: bool = False


OVER_GRPC: Mapping[str, Callable[[], Sent]] = {
    "4 MiB and a byte": lambda: Sent(message(b"x" * (4 * MIB - 9))),
    "16 MiB": lambda: Sent(message(b"x" * (16 * MIB))),
    "a million bytes of metadata": lambda: Sent(
        user_input("hello"), (("x-much", "y" * 1_000_000),)
    ),
    "ten thousand metadata": lambda: Sent(
        user_input("hello"), tuple((f"x-{n}", "y") for n in range(10_000))
    ),
    "invalid UTF-8": lambda: Sent(message(b"\xff\xfe")),
    "a surrogate": lambda: Sent(message(b"a \xed\xa0\x80 b")),
    "an overlong NUL": lambda: Sent(message(b"a \xc0\x80 b")),
    "cut in the middle": lambda: Sent(user_input("hello")[:-2]),
    "a length beyond the end": lambda: Sent(b"\x1a\xff\xff\xff\xff\x07"),
    "groups in groups": lambda: Sent(b"\x0b" * 100_000),
    "ten thousand turns before it": lambda: Sent(
        chat_pb2.SendMessageRequest(
            input=chat_pb2.UserInput(
                text="a",
                history=[chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text="b")] * 20_000,
            )
        ).SerializeToString()
    ),
    "right to left": lambda: Sent(user_input("\u202eשלום عليكم\u202c \u200f"), served=True),
    "zero width and combining": lambda: Sent(
        user_input("e\u0301\u200d\u200b" + "\u0300" * 500), served=True
    ),
}
OVER_HTTP: Mapping[str, bytes] = {
    "4 MiB and a byte": b'{"input":{"text":"' + b"x" * (4 * MIB - 19) + b'"}}',
    "no JSON": b"\xff\xfe",
    "half a surrogate": b'{"input":{"text":"\\ud800"}}',
    "a hundred thousand lists": b'{"input":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a hundred thousand objects": b'{"input":' * 100_000 + b"1" + b"}" * 100_000,
    "a number without end": b'{"input":{"text":' + b"9" * 100_000 + b"}}",
    "not a number": b'{"input":{"text":"a"},"sampling":{"temperature":NaN}}',
    "twice the same key": b'{"input":{"text":"a"},"input":7}',
}


async def over_grpc(gateway: GatewayUnderTest, sent: Sent) -> str:
    """Return the status of the call."""
    metadata = gateway.metadata() + sent.metadata
    # A new channel per call, because a broken one must not explain later failures.
    async with grpc.aio.insecure_channel(gateway.grpc_target) as channel:
        try:
            async for _ in channel.unary_stream(SEND)(sent.data, timeout=20, metadata=metadata):  # type: ignore[attr-defined]
                pass
        except grpc.aio.AioRpcError as error:
            assert "Traceback" not in str(error.details())
            assert "_pb2" not in str(error.details())
            return str(error.code().name)
    return "OK"


async def test_f43_extreme_grpc_input_is_rejected_clearly_or_served(
    tmp_path: Path, record_property: Any
) -> None:
    async with run_gateway(tmp_path) as gateway:
        ended = {
            name: (make(), await over_grpc(gateway, make())) for name, make in OVER_GRPC.items()
        }
        assert text_of(await gateway.ask()) == "The answer is 42."
    wrong = {
        name: status
        for name, (sent, status) in ended.items()
        if status not in ({"OK"} if sent.served else REFUSED)
    }
    assert wrong == {}
    record_property("fired", len(OVER_GRPC))


async def test_f43_extreme_http_input_is_rejected_clearly(
    tmp_path: Path, record_property: Any
) -> None:
    async with run_gateway(tmp_path) as gateway:
        ended = {}
        for name, body in OVER_HTTP.items():
            async with gateway.http.post(
                f"{gateway.url}/api/messages", data=io.BytesIO(body), headers=gateway.headers()
            ) as answer:
                assert answer.content_type == "application/json", name
                ended[name] = answer.status, (await answer.json())["error"]["code"]
        with pytest.raises(aiohttp.ClientError):
            async with gateway.http.get(gateway.url, headers={"x-much": "y" * 1_000_000}):
                pass
        assert text_of(await gateway.ask()) == "The answer is 42."
    assert {name: status for name, (status, _) in ended.items() if status not in (400, 413)} == {}
    record_property("fired", len(OVER_HTTP) + 1)


async def test_f43_unstorable_character_is_rejected_or_replaced(
    postgres_home: Home, record_property: Any
) -> None:
    async with session_service(postgres_home) as stub:
        turn = await stub.BeginTurn(begin("hello"), timeout=5, metadata=ADA)
        ended = [
            await error_of(stub.BeginTurn(begin("a \0 b"), timeout=5, metadata=ADA)),
            await error_of(
                stub.BeginTurn(begin("hello", request_id="a \0 b"), timeout=5, metadata=ADA)
            ),
        ]
        # Model output is arbitrary, and the answer cannot be requested again.
        await stub.FinishTurn(finish(turn.assistant_message_id, "a \0 b"), timeout=5, metadata=ADA)
        request = session_pb2.GetMessageRequest(message_id=turn.assistant_message_id)
        stored = (await stub.GetMessage(request, timeout=5, metadata=ADA)).message
    assert "\0" not in stored.text
    assert [code.name for code, *_ in ended] == ["INVALID_ARGUMENT"] * len(ended)
    record_property("fired", len(ended) + 1)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_f43_turn_ten_thousand_of_a_conversation_works_like_the_tenth(
    postgres_home: Home, record_property: Any
) -> None:
    async with session_service(postgres_home) as stub:
        conversation_id, short_id = "", ""
        last_seconds, first_seconds = [], []
        for number in range(TURNS):
            began = time.monotonic()
            turn = await talk(stub, f"question {number}", "an answer", conversation_id)
            last_seconds.append(time.monotonic() - began)
            conversation_id = turn.conversation_id
            if number >= TURNS - COMPARED:
                # A new conversation at the same time: the machine may be busier than before.
                began = time.monotonic()
                other = await talk(stub, f"question {number}", "an answer", short_id)
                first_seconds.append(time.monotonic() - began)
                short_id = other.conversation_id
        assert turn.context[-1].text == f"question {TURNS - 1}"
        found = await read_messages(stub, conversation_id)
        assert [message.text for message in found[::2]] == [f"question {n}" for n in range(TURNS)]
    first, last = statistics.median(first_seconds), statistics.median(last_seconds[-COMPARED:])
    record_property("fired", TURNS)
    record_property("turn_p50_ms_at_the_beginning", round(first * 1000, 1))
    record_property("turn_p50_ms_at_the_end", round(last * 1000, 1))
    record_property("the_whole_conversation", f"{len(found):,} messages")
    assert last <= 3 * first
