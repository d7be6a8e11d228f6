"""Rows of erasures and of retracted answers, in transit and in objects."""

import pyarrow as pa
from sqlalchemy import Engine, delete, insert

from services.contracts.identifiers import ERASED, turn_event_id
from services.feedback.lake.removed_rows import (
    ErasedRowMask,
    Owner,
    erased_among,
    erased_row_mask,
    retracted_answers,
    retracted_rows,
)
from services.feedback.principals.sealing import RATED_VERSION, VERSION
from services.feedback.store import tables
from services.feedback.wire import turn_entry
from tests.services.feedback.compacted import turns_log
from tests.services.feedback.faults import Faults
from tests.services.feedback.memory import MemoryStore
from tests.services.feedback.samples import erased, name, turn

ADA, BOB = "a" * 64, "b" * 64
OLD, NEW = b"o" * 16, b"n" * 16


def sealed(key_id: bytes) -> bytes:
    return VERSION + key_id + bytes(28)


def rated(key_id: bytes, rater_key_id: bytes) -> bytes:
    return RATED_VERSION + key_id + rater_key_id + bytes(28)


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


def test_rows_of_a_reviewer_are_erased_by_either_key() -> None:
    gone = ErasedRowMask(frozenset([OLD]), {})
    given = rows(
        (ADA, rated(OLD, NEW), 1),
        (ADA, rated(NEW, OLD), 1),
        (ADA, rated(NEW, NEW), 1),
        # The bytes after the key id of other rows are no key id.
        (ADA, VERSION + NEW + OLD + bytes(28), 1),
    )
    assert gone.mask(given).to_pylist() == [True, True, False, False]


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


def test_an_answer_is_retracted_by_a_committed_turn(engine: Engine) -> None:
    log = turns_log(engine, MemoryStore(Faults(0)))
    log.store._faults.on = False
    messages = [name("m"), name("n"), name("no such")]
    log.turns("m", "n")
    assert log.ledger.retracted_answers(messages) == set()
    log.commit(turn_entry(erased("m")))
    assert log.ledger.retracted_answers(messages) == {name("m")}
    with engine.begin() as connection:
        connection.execute(delete(tables.segments))
        assert retracted_answers(connection, []) == set()
        assert retracted_answers(connection, messages) == {name("m")}, "whatever becomes of its row"


def test_the_retracting_turn_stays_and_files_without_turns_are_read() -> None:
    rows = pa.table({"message_id": ["a", "a", "b", "b"], "erased": [False, True, None, True]})
    assert retracted_rows(rows, lambda ids: {"a"} & set(ids)).to_pylist() == [
        True,
        False,
        False,
        False,
    ]
    assert retracted_rows(rows, lambda ids: {"a", "b"}).to_pylist() == [True, False, True, False]
    said = pa.table({"message_id": ["a", "b", "a"]})
    assert retracted_rows(said, lambda ids: {"a"}).to_pylist() == [True, False, True]
    assert retracted_rows(said, lambda ids: set()).to_pylist() == [False, False, False]
    assert (
        len(retracted_rows(pa.table({"sequence": pa.array([], pa.int64())}), lambda ids: {"a"}))
        == 0
    )


def test_each_answer_of_an_object_is_looked_up_once() -> None:
    asked: list[str] = []

    def among(ids):
        asked.extend(ids)
        return set()

    retracted_rows(pa.table({"message_id": ["a", "b", "a"]}), among)
    assert sorted(asked) == ["a", "b"]


def test_an_ordinary_turn_has_another_id() -> None:
    assert turn_event_id(turn().message_id, ERASED) != turn().event_id
