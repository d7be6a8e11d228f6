"""Training opens what it may: with the principal's key and consent, and nothing of texts or keys
leaves an error.
"""

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.support.errors import refused
from tests.training.feedback_log import FeedbackLog, principal_of, uid
from tests.training.sealing import Key, seal
from training.data.catalogue import Directory
from training.data.chat import Message
from training.data.judgements import Judgement
from training.data.sealed import DataKey, SealError
from training.data.served import Served
from training.data.snapshot import (
    DROPPED,
    JUDGEMENTS,
    Snapshot,
    SnapshotConfig,
    read_judgements,
    take_snapshot,
)


@pytest.fixture
def log(tmp_path: Path) -> FeedbackLog:
    return FeedbackLog(tmp_path / "objects", sealing=True)


def taken(log: FeedbackLog, tmp_path: Path) -> Snapshot:
    log.commit()
    return take_snapshot(
        log, Directory(tmp_path / "objects"), SnapshotConfig(), tmp_path / "snapshots", "commit"
    )


def judged(log: FeedbackLog, tmp_path: Path) -> dict[str, Judgement]:
    return {judgement.message_id: judgement for judgement in read_judgements(taken(log, tmp_path))}


def dropped(snapshot: Snapshot) -> Counter[str]:
    with (snapshot.directory / DROPPED).open() as opened:
        found = Counter(json.loads(line)["reason"] for line in opened)
    assert snapshot.manifest.report["dropped"] == dict(sorted(found.items()))
    return found


def say(log: FeedbackLog, name: str, user: str, up: bool = True) -> None:
    log.turn(
        name, user, [("system", "be kind"), ("user", f"question of {user}")], f"answer to {user}"
    )
    log.thumb(name, user, up)


def test_sealed_texts_are_what_was_said(log: FeedbackLog, tmp_path: Path) -> None:
    say(log, "a", "ann", up=False)
    log.correct("a", "ann", "a better answer")
    log.commit()
    stored = b"".join(path.read_bytes() for path in (tmp_path / "objects").rglob("*.parquet"))
    assert b"better answer" not in stored
    found = judged(log, tmp_path)[uid("a")]
    assert found.context == (Message("system", "be kind"), Message("user", "question of ann"))
    assert (found.answer, found.up, found.correction) == ("answer to ann", False, "a better answer")


def test_each_principal_is_asked_for_once_a_snapshot(log: FeedbackLog, tmp_path: Path) -> None:
    for number in range(3):
        say(log, f"a{number}", "ann")
        log.commit()
        say(log, f"b{number}", "bob")
    taken(log, tmp_path)
    assert sorted(log.asked) == sorted([principal_of("ann"), principal_of("bob")])


def test_sealed_and_plain_logs_of_the_same_words_give_the_same_snapshot(tmp_path: Path) -> None:
    ids = []
    for sealing in (False, True):
        log = FeedbackLog(tmp_path / str(sealing) / "objects", sealing)
        say(log, "a", "ann")
        log.correct("a", "ann", "better")
        ids.append(taken(log, tmp_path / str(sealing)).id)
    assert ids[0] == ids[1]


SAMPLE = ((262_143, 7, 1), (-0.75, -0.25, -0.5))


def test_the_judgement_of_an_answer_holds_what_was_sampled_for_it(
    log: FeedbackLog, tmp_path: Path
) -> None:
    log.turn("a", "ann", "hi", "hello", sample=SAMPLE, prompt_tokens=5, temperature=0.9, top_p=0.95)
    log.thumb("a", "ann", True)
    say(log, "b", "bob")
    snapshot = taken(log, tmp_path)
    found = {judgement.message_id: judgement.served for judgement in read_judgements(snapshot)}
    assert found == {uid("a"): Served("nano-0", *SAMPLE, 5, 0.9, 0.95), uid("b"): None}
    assert snapshot.manifest.report["by_version"] == {"nano-0": 2}
    assert snapshot.manifest.report["sampled_by_version"] == {"nano-0": 1}


def test_a_log_without_samples_gives_the_snapshot_that_it_gave_before_there_were_any(
    tmp_path: Path,
) -> None:
    log = FeedbackLog(tmp_path / "objects", sealing=True)
    say(log, "a", "ann")
    snapshot = taken(log, tmp_path)
    assert "served" not in (snapshot.directory / JUDGEMENTS).read_text()


def test_what_was_sampled_goes_with_the_texts_of_an_erased_user(
    log: FeedbackLog, tmp_path: Path
) -> None:
    log.turn("a", "ann", "hi", "hello", sample=SAMPLE)
    log.thumb("a", "ann", True)
    log.commit()
    assert not any(
        b"262143" in path.read_bytes() for path in (tmp_path / "objects").rglob("*.parquet")
    )
    log.erase("ann")
    snapshot = taken(log, tmp_path)
    assert dropped(snapshot) == {"erased": 2}
    assert all(b"262143" not in path.read_bytes() for path in snapshot.directory.iterdir())


@pytest.mark.parametrize("sealing", [True, False])
def test_without_consent_nothing_of_a_user_counts_be_it_said_before_or_after(
    tmp_path: Path, sealing: bool
) -> None:
    log = FeedbackLog(tmp_path / "objects", sealing)
    say(log, "a", "ann")
    say(log, "b", "bob")
    assert set(judged(log, tmp_path)) == {uid("a"), uid("b")}
    log.forbidden = {"ann"}
    say(log, "a2", "ann")
    snapshot = taken(log, tmp_path)
    assert [judgement.message_id for judgement in read_judgements(snapshot)] == [uid("b")]
    assert dropped(snapshot) == {"no_consent": 4}
    log.forbidden = set()
    assert set(judged(log, tmp_path)) == {uid("a"), uid("a2"), uid("b")}


def test_feedback_on_a_turn_of_a_user_without_consent_is_dropped_for_that(
    log: FeedbackLog, tmp_path: Path
) -> None:
    log.turn("a", "ann", "hi", "hello")
    log.thumb("a", "bob", True)
    log.forbidden = {"ann"}
    assert dropped(taken(log, tmp_path)) == {"no_consent": 2}


def test_a_principal_of_whom_the_log_says_nothing_has_allowed_nothing(
    log: FeedbackLog, tmp_path: Path
) -> None:
    say(log, "a", "ann")
    log.strangers = {"ann"}
    assert dropped(taken(log, tmp_path)) == {"no_consent": 2}


@pytest.mark.parametrize("sealing", [True, False])
def test_what_was_erased_is_dropped_while_the_log_still_shows_it(
    tmp_path: Path, sealing: bool
) -> None:
    log = FeedbackLog(tmp_path / "objects", sealing)
    say(log, "a", "ann")
    say(log, "b", "bob")
    log.erase("ann")
    snapshot = taken(log, tmp_path)
    assert [judgement.message_id for judgement in read_judgements(snapshot)] == [uid("b")]
    assert dropped(snapshot) == {"erased": 2}
    assert all(b"ann" not in path.read_bytes() for path in snapshot.directory.iterdir())


def test_what_a_user_says_after_an_erasure_counts(log: FeedbackLog, tmp_path: Path) -> None:
    say(log, "a", "ann")
    log.erase("ann")
    say(log, "later", "ann")
    assert set(judged(log, tmp_path)) == {uid("later")}
    assert dropped(taken(log, tmp_path)) == {"erased": 2}


def test_old_plain_rows_are_read_beside_sealed_ones(tmp_path: Path) -> None:
    store = tmp_path / "objects"
    old = FeedbackLog(store)
    say(old, "a", "ann")
    old.commit()
    log = FeedbackLog.reopen(store, sealing=True)
    say(log, "b", "ann")
    assert set(judged(log, tmp_path)) == {uid("a"), uid("b")}


SECRET = "a secret that nobody may read"
KEY = Key.of(principal_of("ann"), 0)
SOUND = seal(b"", KEY, uid("thumb a"), principal_of("ann"))


@pytest.mark.parametrize(
    "sealed",
    [
        SOUND[:-1] + bytes([SOUND[-1] ^ 1]),
        SOUND[:17] + bytes([SOUND[17] ^ 1]) + SOUND[18:],
        SOUND[:-1],
        b"\x02" + SOUND[1:],
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
def test_bytes_that_do_not_open_name_object_and_offset_alone(
    log: FeedbackLog, tmp_path: Path, sealed: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    log.turn("a", "ann", SECRET, SECRET)
    log.thumb("a", "ann", True)
    log.replace_sealed("feedback", sealed)
    log.commit()
    key = log.feedback_segments()[0].object_key
    with refused(SealError, field="sealed", reason="DAMAGED") as raised:
        taken(log, tmp_path)
    assert key in raised.value.text
    said = raised.value.text.replace(key, "")
    assert re.findall(r"\d+", said) == ["0"]  # the offset
    assert SECRET not in said
    assert "\\x" not in said, "bytes"
    assert raised.value.__cause__ is None
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "snapshots").exists()


def test_a_key_is_not_shown() -> None:
    assert "\\x" not in repr(DataKey(True, b"id", bytes(range(32))))
