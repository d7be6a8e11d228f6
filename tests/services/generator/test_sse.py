"""The parser of the model server's events: any cut of the bytes gives the same pieces."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.generator.sse import EventParser, MalformedStreamError, Piece

STREAM = (
    ": still queued\n\n"
    'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{"content":"naïve 🙂"},"finish_reason":null}]}\r\n\r\n'
    'event: message\ndata:{"choices":[{"index":0,"delta":{"content":"\\n\\n"}}],"usage":null}\n\n'
    'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
    'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\n'
    "data: [DONE]\n\n"
).encode()
PIECES = [
    Piece(),
    Piece("naïve 🙂"),
    Piece("\n\n"),
    Piece(finish_reason="length"),
    Piece(usage=(3, 4)),
    Piece(done=True),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20).map(sorted))
def test_any_cut_of_the_bytes_gives_the_same_pieces(cuts: list[int]) -> None:
    parser = EventParser()
    edges = [0, *cuts, len(STREAM)]
    parts = [STREAM[start:end] for start, end in itertools.pairwise(edges)]
    assert [piece for part in parts for piece in parser.feed(part)] == PIECES


def test_an_error_in_the_stream_is_a_failure() -> None:
    assert list(EventParser().feed(b'data: {"error":{"message":"x"}}\n\n')) == [Piece(failed=True)]


@pytest.mark.parametrize("line", ["{", "[]", "7", '{"choices":[{}]}', '{"choices":7}', '{"id":1}'])
def test_what_is_no_chat_completion_is_malformed(line: str) -> None:
    with pytest.raises(MalformedStreamError):
        list(EventParser().feed(f"data: {line}\n".encode()))
