"""Judgements from the log: order, retractions, joins, erasure and caps; drops have reasons."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.errors import refused
from tests.training.feedback_log import FeedbackLog, principal_of, uid
from training.artifacts.manifest import ManifestError
from training.data.feedback.catalogue import CatalogueError, Directory, Segment
from training.data.feedback.judgements import Judgement
from training.data.feedback.rows import RowError
from training.data.feedback.snapshot import (
    DROPPED,
    Snapshot,
    SnapshotConfig,
    open_snapshot,
    read_judgements,
    take_snapshot,
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
def log(store: Path) -> FeedbackLog:
    return FeedbackLog(store)


def snapshot_of(log: FeedbackLog, store: Path, cap: int = 100) -> Snapshot:
    log.commit()
    config, into = SnapshotConfig(max_per_principal=cap), store.parent / "snapshots"
    return take_snapshot(log, Directory(store), config, into, "commit")


def judgements_of(log: FeedbackLog, store: Path, cap: int = 100) -> dict[str, Judgement]:
    return {
        judgement.message_id: judgement
        for judgement in read_judgements(snapshot_of(log, store, cap))
    }


def dropped(snapshot: Snapshot) -> Counter[str]:
    with (snapshot.directory / DROPPED).open() as opened:
        return Counter(json.loads(line)["reason"] for line in opened)


def test_last_thumb_counts(log: FeedbackLog, store: Path) -> None:
    log.turn("a", "ann", "hi", "hello")
    log.thumb("a", "ann", True, event="1")
    log.thumb("a", "ann", False, event="2")
    assert judgements_of(log, store)[uid("a")].up is False
    assert dropped(snapshot_of(log, store)) == {"superseded_by_later_feedback": 1}


def test_repeated_event_counts_once_with_its_first_offset(log: FeedbackLog, store: Path) -> None:
    log.turn("a", "ann", "hi", "hello")
    log.thumb("a", "ann", True, event="same")
    log.thumb("a", "ann", False, event="same")
    assert judgements_of(log, store)[uid("a")].up is True
    assert dropped(snapshot_of(log, store)) == {"duplicate_event": 1}


def test_retraction_removes_earlier_feedback_only(log: FeedbackLog, store: Path) -> None:
    log.turn("a", "ann", "hi", "hello")
    log.turn("b", "ann", "hi", "hello")
    log.thumb("a", "ann", True)
    log.correct("a", "ann", "good day")
    log.retract("a", "ann", "thumb")
    log.retract("b", "ann", "thumb")
    log.thumb("b", "ann", True)
    found = judgements_of(log, store)
    assert found[uid("a")].up is None
    assert found[uid("a")].correction == "good day"
    assert found[uid("b")].up is True


def test_feedback_joins_its_turn_in_any_order(log: FeedbackLog, store: Path) -> None:
    log.thumb("a", "ann", True)
    log.commit()
    log.turn("a", "ann", "hi", "hello")
    assert judgements_of(log, store)[uid("a")].answer == "hello"


def test_feedback_without_a_turn_is_dropped_and_counted(log: FeedbackLog, store: Path) -> None:
    log.turn("a", "ann", "hi", "hello")
    log.thumb("a", "ann", True)
    log.thumb("gone", "ann", True)
    snapshot = snapshot_of(log, store)
    assert len(read_judgements(snapshot)) == 1
    assert dropped(snapshot) == {"turn_not_yet_in_log": 1}
    assert snapshot.manifest.report["dropped"] == {"turn_not_yet_in_log": 1}


def test_erased_turn_stays_erased_after_a_late_older_revision(
    log: FeedbackLog, store: Path
) -> None:
    log.turn("a", "ann", "my secret", "hello")
    log.thumb("a", "ann", True)
    log.turn("a", "ann", [], "", erased=True, event_id=uid("erasure"))
    log.turn("a", "ann", "my secret", "hello", event_id=uid("late copy"))
    snapshot = snapshot_of(log, store)
    assert read_judgements(snapshot) == []
    assert dropped(snapshot) == {"turn_erased": 1}
    assert all("my secret" not in path.read_text() for path in snapshot.directory.iterdir())


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"finish_reason": "output_blocked"}, "blocked_by_guard"),
        ({"finish_reason": "input_blocked"}, "blocked_by_guard"),
        ({"guard_category": "pii"}, "blocked_by_guard"),
        ({"finish_reason": "length"}, "answer_incomplete"),
        ({"finish_reason": "cancelled"}, "answer_incomplete"),
        ({"finish_reason": "a new reason"}, "answer_incomplete"),
        ({"answer": "  "}, "empty_text"),
        ({"cached": True}, "cached_answer"),
    ],
)
def test_only_complete_and_allowed_answers_count(
    log: FeedbackLog, store: Path, columns: dict[str, object], reason: str
) -> None:
    log.turn("a", "ann", "hi", **{"answer": "hello", **columns})
    log.thumb("a", "ann", True)
    snapshot = snapshot_of(log, store)
    assert read_judgements(snapshot) == []
    assert dropped(snapshot) == {reason: 1}


def test_feedback_on_another_users_answer_is_dropped(log: FeedbackLog, store: Path) -> None:
    log.turn("a", "ann", "hi", "hello")
    log.thumb("a", "bob", False)
    assert dropped(snapshot_of(log, store)) == {"rated_by_another_user": 1}


def test_feedback_of_accounts_in_quarantine_is_left_out(log: FeedbackLog, store: Path) -> None:
    """The account stays the author of the answers, and comes back with the release."""
    for user in ("ann", "eve"):
        log.turn(user, user, f"question of {user}", "hello")
        log.thumb(user, user, False)
        log.correct(user, user, "a better answer")
    free = snapshot_of(log, store)
    ann, eve = map(principal_of, ("ann", "eve"))
    config, into = SnapshotConfig(max_per_principal=100), store.parent / "snapshots"
    held = take_snapshot(log, Directory(store), config, into, "commit", {eve, "unknown"})
    assert {one.principal for one in read_judgements(held)} == {ann}
    assert dropped(held) == {"account_in_quarantine": 2}
    assert {one.principal for one in read_judgements(free)} == {ann, eve}
    assert held.id != free.id
    assert take_snapshot(log, Directory(store), config, into, "commit").id == free.id


def test_judgements_per_user_are_capped(log: FeedbackLog, store: Path) -> None:
    for number in range(30):
        log.turn(f"a{number}", "ann", f"question {number}", "hello")
        log.thumb(f"a{number}", "ann", True)
    log.turn("b", "bob", "hi", "hello")
    log.thumb("b", "bob", True)
    snapshot = snapshot_of(log, store, cap=10)
    assert len(read_judgements(snapshot)) == 11
    assert dropped(snapshot) == {"over_cap_of_user": 20}


def test_the_same_log_gives_the_same_snapshot(log: FeedbackLog, store: Path) -> None:
    log.turn("a", "ann", "hi", "hello")
    log.thumb("a", "ann", True)
    first, second = snapshot_of(log, store), snapshot_of(log, store)
    assert first.id == second.id
    log.turn("b", "ann", "hi", "hello")
    log.thumb("b", "ann", True)
    assert snapshot_of(log, store).id != first.id
    assert snapshot_of(log, store, cap=1).id != snapshot_of(log, store).id


def test_snapshot_id_is_independent_of_the_segmentation(tmp_path: Path) -> None:
    ids = []
    for pieces in (1, 3):
        store = tmp_path / str(pieces) / "objects"
        log = FeedbackLog(store)
        for number in range(6):
            log.turn(f"a{number}", "ann", "hi", "hello")
            log.thumb(f"a{number}", "ann", number % 2 == 0)
            if (number + 1) % (6 // pieces) == 0:
                log.commit()
        ids.append(snapshot_of(log, store).id)
    assert ids[0] == ids[1]


def test_changed_snapshot_is_refused(log: FeedbackLog, store: Path) -> None:
    log.turn("a", "ann", "hi", "hello")
    log.thumb("a", "ann", True)
    snapshot = snapshot_of(log, store)
    path = snapshot.directory / "judgements.jsonl"
    path.write_text(path.read_text().replace("true", "false"))
    with refused(ManifestError, field="judgements.jsonl", reason="MISMATCH"):
        open_snapshot(snapshot.directory)


def test_object_that_differs_from_its_ledger_row_is_refused(log: FeedbackLog, store: Path) -> None:
    log.turn("a", "ann", "hi", "hello")
    log.commit()
    path = store / log.turn_segments()[0].object_key
    path.write_bytes(path.read_bytes() + b" ")
    with refused(CatalogueError, field="sha256", reason="MISMATCH"):
        snapshot_of(log, store)
    path.unlink()
    with refused(CatalogueError, field="object_key", reason="MISSING"):
        snapshot_of(log, store)


def test_uncommitted_objects_are_not_read(log: FeedbackLog, store: Path) -> None:
    log.turn("a", "ann", "hi", "hello")
    log.commit()
    orphan = store / "turns" / "orphan.parquet"
    orphan.write_bytes(b"not even parquet")
    assert snapshot_of(log, store).manifest.report["judgements"] == 0


def test_row_without_message_id_is_refused(log: FeedbackLog, store: Path) -> None:
    log.thumb("a", "ann", True, message_id=None)
    with refused(RowError, field="message_id", reason="MISSING") as caught:
        snapshot_of(log, store)
    assert log.feedback_segments()[0].object_key in caught.value.text
    assert re.search(r"\b0\b", caught.value.text)  # the offset


class Compacted(FeedbackLog):
    """A log with its first listings from before a compaction that deleted the listed objects."""

    listings = 0

    def turn_segments(self) -> Sequence[Segment]:
        self.listings += 1
        found = super().turn_segments()
        return (
            [replace(found[0], object_key="turns/v1/gone")]
            if self.listings <= self.stale
            else found
        )

    stale = 1


def test_object_deleted_by_compaction_is_listed_again_once(store: Path) -> None:
    log = Compacted(store)
    log.turn("a", "ann", "hi", "hello")
    log.thumb("a", "ann", True)
    log.commit()
    assert take_snapshot(log, Directory(store), SnapshotConfig(), store / "s", "commit").thumbs == 1
    assert log.listings == 2
    log.listings, log.stale = 0, 2
    with refused(CatalogueError, field="object_key", reason="MISSING") as caught:
        take_snapshot(log, Directory(store), SnapshotConfig(), store / "s", "commit")
    assert "turns/v1/gone" in caught.value.text
