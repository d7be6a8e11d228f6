"""The parser of the model server's events; any split of the bytes gives the same chunks."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.answering.sse import Chunk, EventParser, MalformedStreamError

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
def test_any_split_of_the_bytes_gives_the_same_chunks(cuts: list[int]) -> None:
    parser = EventParser()
    edges = [0, *cuts, len(STREAM)]
    parts = [STREAM[start:end] for start, end in itertools.pairwise(edges)]
    assert [chunk for part in parts for chunk in parser.feed(part)] == CHUNKS


def test_an_error_in_the_stream_is_a_failure() -> None:
    assert list(EventParser().feed(b'data: {"error":{"message":"x"}}\n\n')) == [Chunk(failed=True)]


@pytest.mark.parametrize("line", ["{", "[]", "7", '{"choices":[{}]}', '{"choices":7}', '{"id":1}'])
def test_events_of_another_format_are_malformed(line: str) -> None:
    with pytest.raises(MalformedStreamError):
        list(EventParser().feed(f"data: {line}\n".encode()))


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
    assert list(EventParser().feed(line.encode())) == [Chunk("a")]
