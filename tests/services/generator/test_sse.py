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
    'data: {"choices":[{"index":0,"delta":{"content":"ab"},"logprobs":{"content":[{"token":"a","logprob":-0.5,"top_logprobs":[]},'
    '{"token":"b","logprob":-1e-3,"bytes":null}]},"token_ids":[7,262143]}]}\n\n'
    'data: {"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}\n\n'
    'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\n'
    "data: [DONE]\n\n"
).encode()
PIECES = [
    Piece(),
    Piece("naïve 🙂"),
    Piece("\n\n"),
    Piece("ab", token_ids=(7, 262143), log_probs=(-0.5, -0.001)),
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


@pytest.mark.parametrize(
    "told",
    [
        '"logprobs":null,"token_ids":null',
        '"logprobs":{"tokens":["a"],"token_logprobs":[-1]},"token_ids":"7"',
        '"logprobs":{"content":[{"token":"a"}]},"token_ids":[7.5]',
        '"logprobs":{"content":null},"token_ids":[null]',
        '"logprobs":[-1],"token_ids":[true]',
        '"logprobs":{"content":[{"logprob":"much"}]}',
    ],
)
def test_tokens_and_log_probs_of_another_form_are_none_and_break_no_answer(told: str) -> None:
    line = 'data: {"choices":[{"index":0,"delta":{"content":"a"},' + told + "}]}\n"
    assert list(EventParser().feed(line.encode())) == [Piece("a")]
