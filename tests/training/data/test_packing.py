"""Packing of documents into rows: every token is predicted once, and documents stay separate."""

import numpy as np
import pytest

from tests.support.errors import refused
from training.data.packing import PackedRows
from training.data.token_shards import ShardError, TokenStream


def stream_of(*lengths: int) -> TokenStream:
    begins = np.cumsum([0, *lengths])
    return TokenStream(
        (np.arange(100, 100 + begins[-1], dtype=np.uint16),), 1 << 20, begins, begins * 3
    )


def test_packed_documents_predict_every_token_except_the_first_exactly_once() -> None:
    stream = stream_of(3, 12, 1, 4, 2)
    rows = PackedRows(stream, row_tokens=5, packing="documents")
    batch = rows.batch(range(len(rows)))
    learned = batch.ids_BT[batch.learned_BT].tolist()
    firsts = {100, 103, 115, 116, 120}
    assert sorted(learned) == [token for token in range(100, 122) if token not in firsts]
    assert rows.left_over_tokens == 0
    # End tokens of documents are predicted but contain no text.
    assert sorted(batch.ids_BT[batch.text_BT].tolist()) == sorted(
        set(learned) - {102, 114, 115, 119, 121}
    )


def test_packed_rows_have_document_numbers_and_zero_padding() -> None:
    batch = PackedRows(stream_of(3, 4), row_tokens=5, packing="documents").batch([0, 1])
    assert batch.ids_BT.tolist() == [[100, 101, 102, 103, 104], [104, 105, 106, 0, 0]]
    assert batch.mask_BT.tolist() == [[1, 1, 1, 2, 2], [2, 2, 2, 0, 0]]
    assert batch.learned_BT.int().tolist() == [[0, 1, 1, 0, 1], [0, 1, 1, 0, 0]]


def test_stream_rows_lie_end_to_end_and_left_over_tokens_are_counted() -> None:
    rows = PackedRows(stream_of(3, 4, 6), row_tokens=5, packing="stream")
    batch = rows.batch([0, 1])
    assert batch.ids_BT.flatten().tolist() == list(range(100, 110))
    assert batch.mask_BT.tolist() == [[1] * 5] * 2
    assert batch.learned_BT.int().tolist() == [[0, 1, 1, 1, 1]] * 2
    assert (len(rows), rows.left_over_tokens) == (2, 3)


def test_first_documents_are_whole_and_at_least_one() -> None:
    stream = stream_of(3, 4, 6)
    assert [
        (part.documents, part.tokens, part.bytes) for part in map(stream.first, (1, 7, 12, 99))
    ] == [
        (1, 3, 9),
        (2, 7, 21),
        (2, 7, 21),
        (3, 13, 39),
    ]


@pytest.mark.parametrize(
    ("rows", "packing", "field", "reason", "limit"),
    [
        (1, "stream", "context_tokens", "OUT_OF_RANGE", "at least 2"),
        (8, "best", "packing", "UNKNOWN", "documents, stream"),
    ],
)
def test_invalid_row_settings_are_refused(
    rows: int, packing: str, field: str, reason: str, limit: str
) -> None:
    with refused(ShardError, field=field, reason=reason, limit=limit):
        PackedRows(stream_of(3), rows, packing)
