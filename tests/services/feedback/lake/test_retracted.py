"""Retracted answers: only committed turns count."""

import pyarrow as pa
from sqlalchemy import Engine, delete

from services.contracts.identifiers import ERASED, turn_event_id
from services.feedback.lake.retracted import retracted_answers, retracted_rows
from services.feedback.store import tables
from services.feedback.wire import turn_entry
from tests.services.feedback.compacted import turns_log
from tests.services.feedback.faults import Faults
from tests.services.feedback.memory import MemoryStore
from tests.services.feedback.samples import erased, name, turn


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
