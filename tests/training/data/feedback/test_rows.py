"""Rows of the log, written by the sink and read by training: consent, erasure, sealed texts."""

import base64
import hashlib
import json
import re
from collections import Counter
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from thumbwheel.feedback.v1 import events_pb2

from services.contracts.feedback import Correction, Retraction, Signal, Thumb
from services.feedback import wire as codec
from services.feedback.events import FeedbackEvent, TurnEvent
from services.feedback.lake import parquet
from tests.support.errors import refused
from tests.training.feedback_log import FeedbackLog, principal_of, uid
from tests.training.sealing import Key, seal
from training.data.chat import Message
from training.data.feedback.catalogue import Directory, Segment
from training.data.feedback.events import FeedbackKind, FinishReason, Withheld
from training.data.feedback.judgements import Judgement
from training.data.feedback.rows import (
    DataKey,
    Decryptor,
    RowError,
    SealError,
    Texts,
    feedback_rows,
    turn_rows,
)
from training.data.feedback.snapshot import (
    DROPPED,
    JUDGEMENTS,
    Snapshot,
    SnapshotConfig,
    read_judgements,
    take_snapshot,
)
from training.data.served import Served

FILES = Path(__file__).parents[3] / "services/feedback/golden"
GOLDEN, SAMPLED = (
    json.loads((FILES / f"sealed_v{release}.json").read_text()) for release in (1, 2)
)
SEGMENT = Segment(1, "topic", 0, 0, 10, "key", "sha", 3)
DECRYPTOR = Decryptor({"a" * 64: DataKey(consent=True)}, set())
POSITION = {"topic_id": "topic", "partition": 0, "ingest_time": 1, "schema_version": 1}
EVENT = FeedbackEvent(
    uid("e"), "t", "a" * 64, uid("c"), uid("m"), "nano-0", "stable", 1, Thumb(True, ("nice",), "x")
)
TURN = TurnEvent(
    event_id=uid("t"),
    tenant="t",
    principal="a" * 64,
    conversation_id=uid("c"),
    user_message_id=uid("u"),
    message_id=uid("m"),
    context=(("system", "be kind"), ("user", "hi")),
    original_text="hi",
    answer="hello",
    finish_reason="stop",
    model_version="nano-0",
    arm="candidate",
    assignment_probability=0.5,
    task="chat",
    temperature=0.9,
    top_p=1.0,
    prompt_tokens=1,
    completion_tokens=1,
    policy_version="1",
    guard_category="",
    finish_us=1,
    erased=False,
    cached=True,
)


def table(schema, rows):
    positioned = [
        {**row, **POSITION, "offset": number, "event_id": uid(f"e{number}")}
        for number, row in enumerate(rows)
    ]
    return pq.read_table(BytesIO(parquet.encode(schema, positioned)))


def test_feedback_rows_match_the_sinks_format() -> None:
    values = [Thumb(False), Correction("better"), Retraction("thumb")]
    rows = [parquet.feedback_row(replace(EVENT, value=value)) for value in values]
    thumb, correction, retraction = feedback_rows(
        table(parquet.FEEDBACK_SCHEMA, rows), SEGMENT, DECRYPTOR
    )
    assert (thumb.kind, thumb.up, thumb.message_id, thumb.place) == (
        FeedbackKind.THUMB,
        False,
        uid("m"),
        (0, 1, 0),
    )
    assert (correction.kind, correction.text) == (FeedbackKind.CORRECTION, "better")
    assert (retraction.kind, retraction.retracts) == (FeedbackKind.RETRACTION, "thumb")


def test_signals_are_no_judgements() -> None:
    """Implicit signals are counted by version and are never a reward."""
    values = [Signal("copied"), Thumb(True), Signal("copied")]
    rows = [parquet.feedback_row(replace(EVENT, value=value)) for value in values]
    (event,) = feedback_rows(table(parquet.FEEDBACK_SCHEMA, rows), SEGMENT, DECRYPTOR)
    assert (event.kind, event.place) == (FeedbackKind.THUMB, (0, 1, 1))


def test_turn_rows_match_the_sinks_format() -> None:
    (turn,) = turn_rows(table(parquet.TURNS_SCHEMA, [parquet.turn_row(TURN)]), SEGMENT, DECRYPTOR)
    assert turn.context == (Message("system", "be kind"), Message("user", "hi"))
    assert (turn.answer, turn.finish, turn.arm, turn.erased) == (
        "hello",
        FinishReason.STOP,
        "candidate",
        False,
    )
    assert turn.cached


def test_columns_missing_from_older_files_are_null() -> None:
    old = table(parquet.TURNS_SCHEMA, [parquet.turn_row(TURN)]).drop_columns(
        ["guard_category", "erased", "arm", "cached"]
    )
    (turn,) = turn_rows(old, SEGMENT, DECRYPTOR)
    assert (turn.guard_category, turn.erased, turn.arm, turn.cached) == ("", False, "", False)


def test_rows_of_compacted_objects_keep_their_original_positions() -> None:
    rows = [parquet.feedback_row(EVENT), parquet.feedback_row(replace(EVENT, value=Thumb(False)))]
    compacted = table(parquet.FEEDBACK_SCHEMA, rows).append_column(
        "sequence", pa.array([4, 7], pa.int64())
    )
    cover = Segment(7, "", 0, 0, 0, "key", "sha", 2, first_sequence=3)
    assert [event.place for event in feedback_rows(compacted, cover, DECRYPTOR)] == [
        (0, 4, 0),
        (0, 7, 1),
    ]
    for other in (replace(cover, sequence=6), replace(cover, first_sequence=5)):
        limit = f"{other.first_sequence} to {other.sequence}"
        with refused(RowError, field="sequence", reason="OUT_OF_RANGE", limit=limit):
            list(feedback_rows(compacted, other, DECRYPTOR))
    with refused(RowError, field="sequence", reason="OUT_OF_RANGE", limit="3 to 7"):
        list(feedback_rows(compacted.drop_columns(["sequence"]), cover, DECRYPTOR))


def test_golden_sealed_events_decrypt_to_their_texts() -> None:
    for name in GOLDEN["events"]:
        message = events_pb2.TurnEvent if name in ("turn", "erased") else events_pb2.FeedbackEvent
        sealed, texts_of = (
            message.FromString(base64.b64decode(GOLDEN[part][name])) for part in ("events", "said")
        )
        key = DataKey(True, bytes.fromhex(GOLDEN["key_id"]), bytes.fromhex(GOLDEN["key"]))
        decryptor = Decryptor({sealed.principal: key}, set())
        if message is events_pb2.TurnEvent:
            row = {**parquet.turn_row(codec.turn_from(sealed)), "event_id": sealed.event_id}
            assert row["context"] == []
            texts = decryptor.turn(row, SEGMENT)
            assert [(m.role, m.content) for m in texts.context] == [
                ("user", m.text) for m in texts_of.context
            ]
            assert texts.answer == texts_of.answer
        else:
            row = {**parquet.feedback_row(codec.feedback_from(sealed)), "event_id": sealed.event_id}
            assert decryptor.feedback(row, SEGMENT) == Texts(correction=texts_of.correction.text)


def test_golden_turns_decrypt_with_and_without_a_sample() -> None:
    for golden, wanted in (
        (
            SAMPLED["events"]["sampled"],
            Served("v1", (262_143, 7, 1), (-0.75, -0.25, -0.0009765625), 7, 0.5, 0.75),
        ),
        (GOLDEN["events"]["turn"], None),
    ):
        sealed = events_pb2.TurnEvent.FromString(base64.b64decode(golden))
        key = DataKey(True, bytes.fromhex(GOLDEN["key_id"]), bytes.fromhex(GOLDEN["key"]))
        row = parquet.turn_row(codec.turn_from(sealed))
        table_of = pq.read_table(
            BytesIO(
                parquet.encode(
                    parquet.TURNS_SCHEMA,
                    [{**row, **POSITION, "offset": 0, "event_id": sealed.event_id}],
                )
            )
        )
        (turn,) = turn_rows(table_of, SEGMENT, Decryptor({sealed.principal: key}, set()))
        assert turn.served == wanted
        (withheld,) = turn_rows(
            table_of, SEGMENT, Decryptor({sealed.principal: DataKey(consent=False)}, set())
        )
        assert (withheld.served, withheld.withheld) == (None, Withheld.NO_CONSENT)


@pytest.fixture
def log(tmp_path: Path) -> FeedbackLog:
    return FeedbackLog(tmp_path / "objects", sealing=True)


def snapshot_of(log: FeedbackLog, tmp_path: Path) -> Snapshot:
    log.commit()
    return take_snapshot(
        log, Directory(tmp_path / "objects"), SnapshotConfig(), tmp_path / "snapshots", "commit"
    )


def judgements_of(log: FeedbackLog, tmp_path: Path) -> dict[str, Judgement]:
    return {
        judgement.message_id: judgement for judgement in read_judgements(snapshot_of(log, tmp_path))
    }


def dropped(snapshot: Snapshot) -> Counter[str]:
    with (snapshot.directory / DROPPED).open() as opened:
        found = Counter(json.loads(line)["reason"] for line in opened)
    assert snapshot.manifest.report["dropped"] == dict(sorted(found.items()))
    return found


def add_rated_turn(log: FeedbackLog, name: str, user: str, up: bool = True) -> None:
    log.turn(
        name, user, [("system", "be kind"), ("user", f"question of {user}")], f"answer to {user}"
    )
    log.thumb(name, user, up)


def test_sealed_texts_are_decrypted(log: FeedbackLog, tmp_path: Path) -> None:
    add_rated_turn(log, "a", "ann", up=False)
    log.correct("a", "ann", "a better answer")
    log.commit()
    stored = b"".join(path.read_bytes() for path in (tmp_path / "objects").rglob("*.parquet"))
    assert b"better answer" not in stored
    found = judgements_of(log, tmp_path)[uid("a")]
    assert found.context == (Message("system", "be kind"), Message("user", "question of ann"))
    assert (found.answer, found.up, found.correction) == ("answer to ann", False, "a better answer")


def test_keys_are_requested_once_per_principal_and_snapshot(
    log: FeedbackLog, tmp_path: Path
) -> None:
    for number in range(3):
        add_rated_turn(log, f"a{number}", "ann")
        log.commit()
        add_rated_turn(log, f"b{number}", "bob")
    snapshot_of(log, tmp_path)
    assert sorted(log.asked) == sorted([principal_of("ann"), principal_of("bob")])


def test_sealed_and_plain_logs_of_the_same_texts_give_the_same_snapshot(tmp_path: Path) -> None:
    ids = []
    for sealing in (False, True):
        log = FeedbackLog(tmp_path / str(sealing) / "objects", sealing)
        add_rated_turn(log, "a", "ann")
        log.correct("a", "ann", "better")
        ids.append(snapshot_of(log, tmp_path / str(sealing)).id)
    assert ids[0] == ids[1]


SAMPLE = ((262_143, 7, 1), (-0.75, -0.25, -0.5))


def test_judgement_holds_the_sample_of_its_answer(log: FeedbackLog, tmp_path: Path) -> None:
    log.turn("a", "ann", "hi", "hello", sample=SAMPLE, prompt_tokens=5, temperature=0.9, top_p=0.95)
    log.thumb("a", "ann", True)
    add_rated_turn(log, "b", "bob")
    snapshot = snapshot_of(log, tmp_path)
    found = {judgement.message_id: judgement.served for judgement in read_judgements(snapshot)}
    assert found == {uid("a"): Served("nano-0", *SAMPLE, 5, 0.9, 0.95), uid("b"): None}
    assert snapshot.manifest.report["by_version"] == {"nano-0": 2}
    assert snapshot.manifest.report["sampled_by_version"] == {"nano-0": 1}


def test_log_without_samples_writes_no_served_field(
    tmp_path: Path,
) -> None:
    log = FeedbackLog(tmp_path / "objects", sealing=True)
    add_rated_turn(log, "a", "ann")
    snapshot = snapshot_of(log, tmp_path)
    assert "served" not in (snapshot.directory / JUDGEMENTS).read_text()


def test_sample_of_an_erased_user_is_removed_with_the_texts(
    log: FeedbackLog, tmp_path: Path
) -> None:
    log.turn("a", "ann", "hi", "hello", sample=SAMPLE)
    log.thumb("a", "ann", True)
    log.commit()
    assert not any(
        b"262143" in path.read_bytes() for path in (tmp_path / "objects").rglob("*.parquet")
    )
    log.erase("ann")
    snapshot = snapshot_of(log, tmp_path)
    assert dropped(snapshot) == {"erased": 2}
    assert all(b"262143" not in path.read_bytes() for path in snapshot.directory.iterdir())


@pytest.mark.parametrize("sealing", [True, False])
def test_feedback_without_consent_is_dropped_whenever_it_was_given(
    tmp_path: Path, sealing: bool
) -> None:
    log = FeedbackLog(tmp_path / "objects", sealing)
    add_rated_turn(log, "a", "ann")
    add_rated_turn(log, "b", "bob")
    assert set(judgements_of(log, tmp_path)) == {uid("a"), uid("b")}
    log.forbidden = {"ann"}
    add_rated_turn(log, "a2", "ann")
    snapshot = snapshot_of(log, tmp_path)
    assert [judgement.message_id for judgement in read_judgements(snapshot)] == [uid("b")]
    assert dropped(snapshot) == {"no_consent": 4}
    log.forbidden = set()
    assert set(judgements_of(log, tmp_path)) == {uid("a"), uid("a2"), uid("b")}


def test_feedback_on_a_turn_of_a_user_without_consent_is_dropped(
    log: FeedbackLog, tmp_path: Path
) -> None:
    log.turn("a", "ann", "hi", "hello")
    log.thumb("a", "bob", True)
    log.forbidden = {"ann"}
    assert dropped(snapshot_of(log, tmp_path)) == {"no_consent": 2}


def test_unknown_principal_has_not_consented(log: FeedbackLog, tmp_path: Path) -> None:
    add_rated_turn(log, "a", "ann")
    log.strangers = {"ann"}
    assert dropped(snapshot_of(log, tmp_path)) == {"no_consent": 2}


@pytest.mark.parametrize("sealing", [True, False])
def test_erased_events_are_dropped_while_still_in_the_log(tmp_path: Path, sealing: bool) -> None:
    log = FeedbackLog(tmp_path / "objects", sealing)
    add_rated_turn(log, "a", "ann")
    add_rated_turn(log, "b", "bob")
    log.erase("ann")
    snapshot = snapshot_of(log, tmp_path)
    assert [judgement.message_id for judgement in read_judgements(snapshot)] == [uid("b")]
    assert dropped(snapshot) == {"erased": 2}
    assert all(b"ann" not in path.read_bytes() for path in snapshot.directory.iterdir())


def test_feedback_after_an_erasure_counts(log: FeedbackLog, tmp_path: Path) -> None:
    add_rated_turn(log, "a", "ann")
    log.erase("ann")
    add_rated_turn(log, "later", "ann")
    assert set(judgements_of(log, tmp_path)) == {uid("later")}
    assert dropped(snapshot_of(log, tmp_path)) == {"erased": 2}


def test_plain_rows_are_read_together_with_sealed_rows(tmp_path: Path) -> None:
    store = tmp_path / "objects"
    old = FeedbackLog(store)
    add_rated_turn(old, "a", "ann")
    old.commit()
    log = FeedbackLog.reopen(store, sealing=True)
    add_rated_turn(log, "b", "ann")
    assert set(judgements_of(log, tmp_path)) == {uid("a"), uid("b")}


SECRET = "a secret that nobody may read"
KEY = Key.of(principal_of("ann"), 0)
VALID_BYTES = seal(b"", KEY, uid("thumb a"), principal_of("ann"))


@pytest.mark.parametrize(
    "sealed",
    [
        VALID_BYTES[:-1] + bytes([VALID_BYTES[-1] ^ 1]),
        VALID_BYTES[:17] + bytes([VALID_BYTES[17] ^ 1]) + VALID_BYTES[18:],
        VALID_BYTES[:-1],
        b"\x02" + VALID_BYTES[1:],
        b"\x01",
        b"\x01" + KEY.id,
        seal(b"", KEY, uid("another"), principal_of("ann")),
        seal(b"", KEY, uid("thumb a"), principal_of("bob")),
        seal(SECRET.encode(), KEY, uid("thumb a"), principal_of("ann")),
        seal(
            b"", Key(KEY.id, hashlib.sha256(b"wrong").digest()), uid("thumb a"), principal_of("ann")
        ),
    ],
    ids=[
        "tag",
        "nonce",
        "cut",
        "form",
        "form alone",
        "no nonce",
        "event",
        "principal",
        "no message",
        "key",
    ],
)
def test_decryption_error_names_only_object_and_offset(
    log: FeedbackLog, tmp_path: Path, sealed: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    log.turn("a", "ann", SECRET, SECRET)
    log.thumb("a", "ann", True)
    log.replace_sealed("feedback", sealed)
    log.commit()
    key = log.feedback_segments()[0].object_key
    with refused(SealError, field="sealed", reason="DAMAGED") as raised:
        snapshot_of(log, tmp_path)
    assert key in raised.value.text
    message = raised.value.text.replace(key, "")
    assert re.findall(r"\d+", message) == ["0"]  # the offset
    assert SECRET not in message
    assert "\\x" not in message, "bytes"
    assert raised.value.__cause__ is None
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "snapshots").exists()


def test_repr_of_a_data_key_hides_the_key() -> None:
    assert "\\x" not in repr(DataKey(True, b"id", bytes(range(32))))
