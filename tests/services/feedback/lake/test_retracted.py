"""Which answers were taken back: by the ids that session gives, for ever, and only by turns that
are committed.
"""

import pyarrow as pa
from sqlalchemy import Engine, delete

from services.feedback import tables
from services.feedback.codec import turn_entry
from services.feedback.lake.retracted import retracted_answers, retracted_rows, retraction_event_id
from services.session.identifiers import ERASED, turn_event_id
from tests.services.feedback.compacted import turns_log
from tests.services.feedback.faults import Faults
from tests.services.feedback.memory import MemoryStore
from tests.services.feedback.samples import erased, name, turn


def test_the_ids_are_those_that_session_gives() -> None:
    assert retraction_event_id(name("m")) == turn_event_id(name("m"), ERASED)


def test_an_answer_is_taken_back_once_the_turn_that_says_so_is_committed(engine: Engine) -> None:
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


def test_the_turn_that_takes_back_stays_and_files_without_turns_are_understood() -> None:
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


def test_every_answer_of_an_object_is_asked_about_once() -> None:
    asked: list[str] = []

    def among(ids):
        asked.extend(ids)
        return set()

    retracted_rows(pa.table({"message_id": ["a", "b", "a"]}), among)
    assert sorted(asked) == ["a", "b"]


def test_a_turn_that_is_not_taken_back_has_another_id() -> None:
    assert retraction_event_id(turn().message_id) != turn().event_id
