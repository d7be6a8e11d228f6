"""Erased rows: sealed rows by key, plain rows by position, also in older files."""

import pyarrow as pa
from sqlalchemy import Engine, insert

from services.feedback.principals.erased_rows import (
    ErasedRowMask,
    Owner,
    erased_among,
    erased_row_mask,
)
from services.feedback.principals.sealing import VERSION
from services.feedback.store import tables

ADA, BOB = "a" * 64, "b" * 64
OLD, NEW = b"o" * 16, b"n" * 16


def sealed(key_id: bytes) -> bytes:
    return VERSION + key_id + bytes(28)


def rows(*given: tuple[str, bytes | None, int]) -> pa.Table:
    principals, texts, sequences = zip(*given, strict=True)
    return pa.table(
        {
            "principal": pa.array(principals, pa.string()),
            "sealed": pa.array(texts, pa.binary()),
            "sequence": pa.array(sequences, pa.int64()),
        }
    )


def test_sealed_rows_are_erased_by_key_and_plain_rows_by_position() -> None:
    gone = ErasedRowMask(frozenset([OLD]), {ADA: 5})
    given = rows(
        (ADA, sealed(OLD), 9),
        (ADA, sealed(NEW), 1),
        (ADA, None, 5),
        (ADA, None, 6),
        (BOB, None, 1),
        (BOB, sealed(NEW), 1),
    )
    assert gone.mask(given).to_pylist() == [True, False, True, False, False, False]


def test_files_of_the_first_version_and_empty_files_are_read() -> None:
    gone = ErasedRowMask(frozenset([OLD]), {ADA: 5})
    first = rows((ADA, None, 5), (BOB, None, 5)).drop_columns("sealed")
    assert gone.mask(first).to_pylist() == [True, False]
    assert len(gone.mask(pa.table({"sequence": pa.array([], pa.int64())}))) == 0


def test_without_an_erasure_no_row_is_erased() -> None:
    assert ErasedRowMask(frozenset(), {}).mask(
        rows((ADA, sealed(OLD), 1), (ADA, None, 1))
    ).to_pylist() == [False, False]


def test_the_erasure_ledger_is_read_by_stream(engine: Engine) -> None:
    erasures = [
        {"number": 1, "principal": ADA, "key_id": None, "erasure_id": "1"},
        {"number": 2, "principal": ADA, "key_id": OLD, "erasure_id": "2"},
    ]
    reaches = [("feedback", 1, 3), ("turns", 1, 0), ("feedback", 2, 4), ("turns", 2, 8)]
    with engine.begin() as connection:
        for one in erasures:
            connection.execute(
                insert(tables.erasures).values(**one, tenant="acme", request_us=1, shred_us=1)
            )
        for stream, number, sequence in reaches:
            values = {"stream": stream, "number": number, "sequence": sequence}
            connection.execute(insert(tables.erasure_reaches).values(values))
        assert erased_row_mask(connection, "feedback") == ErasedRowMask(frozenset([OLD]), {ADA: 4})
        assert erased_row_mask(connection, "turns") == ErasedRowMask(frozenset([OLD]), {ADA: 8})
        owners = [
            Owner(ADA, OLD),
            Owner(ADA, NEW),
            Owner(ADA, b""),
            Owner(BOB, b""),
            Owner(BOB, NEW),
        ]
        assert erased_among(connection, owners) == {Owner(ADA, OLD), Owner(ADA, b"")}
        assert erased_among(connection, []) == set()
