"""The stream of a model server: its events, the sample that they contain, and larger deltas.

Any split of the bytes gives the same chunks. A sample is complete or dropped: no missing token, no
invalid log-prob. Coalescing: the first delta at once, no lost character, about one message for each
window.
"""

import asyncio
import itertools
import math

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from hypothesis import given
from hypothesis import strategies as st

from services.contracts.chat import Sample
from services.generator.answering.stream import (
    Chunk,
    MalformedStreamError,
    SampleParts,
    coalesced,
    parse_line,
)
from tests.support.simulated_time import simulate

STREAM = (
    ": still queued\n\n"
    'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},'
    '"finish_reason":null}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{"content":"naïve 🙂"},"finish_reason":null}]}\r\n\r\n'
    'event: message\ndata:{"choices":[{"index":0,"delta":{"content":"\\n\\n"}}],"usage":null}\n\n'
    'data: {"choices":[{"index":0,"delta":{"content":"ab"},'
    '"logprobs":{"content":[{"token":"a","logprob":-0.5,"top_logprobs":[]},'
    '{"token":"b","logprob":-1e-3,"bytes":null}]},"token_ids":[7,262143]}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
    'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\n'
    "data: [DONE]\n\n"
).encode()
CHUNKS = [
    Chunk(),
    Chunk("naïve 🙂"),
    Chunk("\n\n"),
    Chunk("ab", token_ids=(7, 262143), log_probs=(-0.5, -0.001)),
    Chunk(finish_reason="length"),
    Chunk(usage=(3, 4)),
    Chunk(done=True),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20).map(sorted))
async def test_any_split_of_the_bytes_gives_the_same_chunks(cuts: list[int]) -> None:
    edges = [0, *cuts, len(STREAM)]
    pieces = [STREAM[start:end] for start, end in itertools.pairwise(edges)]
    assert await chunks_of(pieces) == CHUNKS


async def chunks_of(pieces: list[bytes]) -> list[Chunk]:
    loop = asyncio.get_running_loop()
    reader = StreamReader(BaseProtocol(loop), 1 << 16, loop=loop)
    for piece in pieces:
        reader.feed_data(piece)
    reader.feed_eof()
    lines = [line async for line in reader]
    return [chunk for line in lines if (chunk := parse_line(line)) is not None]


def test_an_error_in_the_stream_is_a_failure() -> None:
    assert parse_line(b'data: {"error":{"message":"x"}}\n') == Chunk(failed=True)


async def test_the_start_of_a_lost_line_is_ignored() -> None:
    assert await chunks_of([b'data: [DONE]\n\ndata: {"choices":', b'[{"index"']) == [
        Chunk(done=True)
    ]


@pytest.mark.parametrize("line", ["{", "[]", "7", '{"choices":[{}]}', '{"choices":7}', '{"id":1}'])
def test_events_of_another_format_are_malformed(line: str) -> None:
    with pytest.raises(MalformedStreamError):
        parse_line(f"data: {line}\n".encode())


@pytest.mark.parametrize(
    "token_fields",
    [
        '"logprobs":null,"token_ids":null',
        '"logprobs":{"tokens":["a"],"token_logprobs":[-1]},"token_ids":"7"',
        '"logprobs":{"content":[{"token":"a"}]},"token_ids":[7.5]',
        '"logprobs":{"content":null},"token_ids":[null]',
        '"logprobs":[-1],"token_ids":[true]',
        '"logprobs":{"content":[{"logprob":"much"}]}',
    ],
)
def test_unknown_forms_of_tokens_and_log_probs_are_ignored(token_fields: str) -> None:
    line = 'data: {"choices":[{"index":0,"delta":{"content":"a"},' + token_fields + "}]}\n"
    assert parse_line(line.encode()) == Chunk("a")


def parts(*chunks: tuple[tuple[int, ...], tuple[float, ...]]) -> SampleParts:
    found = SampleParts()
    for ids, log_probs in chunks:
        found.add(ids, log_probs)
    return found


def test_chunks_join_in_order_and_log_probs_are_at_most_zero() -> None:
    sample = parts(((5, 6), (-0.5, 1e-7)), ((), ()), ((2**32 - 1,), (-30.0,))).joined(3)
    assert sample == Sample((5, 6, 2**32 - 1), (-0.5, 0.0, -30.0))


@pytest.mark.parametrize(
    "found",
    [
        parts(),
        parts(((5,), (-0.5,))),
        parts(((5, 6), (-0.5,))),
        parts(((5,), (-0.5, -0.5))),
        parts(((5, 6), (-0.5, -0.5)), ((7,), (-0.5,))),
        parts(((5, 6), (-0.5, math.nan))),
        parts(((5, 6), (-0.5, -math.inf))),
        parts(((5, 6), (-0.5, -9999.0))),
        parts(((5, 6), (-0.5, 0.5))),
        parts(((5, -6), (-0.5, -0.5))),
        parts(((5, 2**32), (-0.5, -0.5))),
    ],
)
def test_an_incomplete_sample_is_none(found: SampleParts) -> None:
    assert found.joined(2) is None


def test_an_empty_answer_and_one_over_the_token_limit_have_no_sample() -> None:
    assert parts().joined(0) is None
    assert parts((tuple(range(4096)), (-1.0,) * 4096)).joined(4096) is not None
    assert parts((tuple(range(4097)), (-1.0,) * 4097)).joined(4097) is None


async def collect(deltas: "asyncio.Queue[str | None]", window_seconds: float) -> list[str]:
    return [text async for text in coalesced(deltas, window_seconds)]


async def test_the_first_delta_is_sent_at_once_and_later_ones_are_joined() -> None:
    deltas: asyncio.Queue[str | None] = asyncio.Queue()
    collecting = asyncio.create_task(collect(deltas, 0.5))
    deltas.put_nowait("a")
    await asyncio.sleep(0.01)
    for delta in "bcdef":
        deltas.put_nowait(delta)
        await asyncio.sleep(0)
    deltas.put_nowait(None)
    assert await collecting == ["a", "bcdef"]


async def test_a_window_of_zero_sends_every_delta_at_once() -> None:
    deltas: asyncio.Queue[str | None] = asyncio.Queue()
    collecting = asyncio.create_task(collect(deltas, 0.0))
    for delta in "abc":
        deltas.put_nowait(delta)
        await asyncio.sleep(0.01)
    deltas.put_nowait(None)
    assert await collecting == ["a", "b", "c"]


async def test_an_empty_answer_has_no_deltas() -> None:
    deltas: asyncio.Queue[str | None] = asyncio.Queue()
    deltas.put_nowait(None)
    assert await collect(deltas, 0.2) == []


def test_pauses_grow_to_four_times_the_window() -> None:
    async def check() -> None:
        deltas: asyncio.Queue[str | None] = asyncio.Queue()
        loop, times = asyncio.get_running_loop(), list[float]()

        async def write() -> None:
            for _ in range(300):
                deltas.put_nowait("a")
                await asyncio.sleep(0.01)
            deltas.put_nowait(None)

        async def read() -> None:
            async for _ in coalesced(deltas, 0.2):
                times.append(loop.time())

        await asyncio.gather(write(), read())
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert pauses[:6] == pytest.approx([0.2, 0.3, 0.45, 0.675, 0.8, 0.8], abs=0.02)

    simulate(check())
