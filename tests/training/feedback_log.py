"""A feedback service in memory for tests of the loop.

Events become committed Parquet objects in a directory store.
"""

import hashlib
import io
import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sequential.figures import VersionFigures
from tests.training.sealing import Key, sealed_row
from training.data.feedback.catalogue import Segment
from training.data.feedback.events import Erasure
from training.data.feedback.rows import DataKey

TOPIC = "11111111-2222-3333-4444-555555555555"


def uid(name: str) -> str:
    """Return a UUID that is equal in every run."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def principal_of(user: str) -> str:
    """Return the principal of a user in the log."""
    return hashlib.sha256(user.encode()).hexdigest()


class FeedbackLog:
    """Both streams of one partition, consents, erasures, and the counts for a canary."""

    def __init__(self, store: Path, sealing: bool = False) -> None:
        self._store, self._sealing = store, sealing
        self._keys: dict[str, Key] = {}
        self.forbidden: set[str] = set()  # users without consent
        self.strangers: set[str] = set()  # users unknown to the log
        self.asked: list[str] = []  # principals whose keys were requested
        self.ledger: list[Erasure] = []
        self._segments: dict[str, list[Segment]] = {"feedback": [], "turns": []}
        self._pending: dict[str, list[dict[str, Any]]] = {"feedback": [], "turns": []}
        self._offsets = {"feedback": 0, "turns": 0}
        self.counts: dict[str, VersionFigures] = {}

    @classmethod
    def reopen(cls, store: Path, sealing: bool = False) -> "FeedbackLog":
        """Open a log that another process committed to this store."""
        log = cls(store, sealing)
        for path in sorted(store.glob("*/v1/*/*/*.parquet")):
            stream, (start, end, _) = path.relative_to(store).parts[0], path.stem.split("-")
            log._note(
                stream, path.relative_to(store).as_posix(), path.read_bytes(), int(start), int(end)
            )
            log._offsets[stream] = int(end)
        return log

    def turn(
        self, name: str, user: str, asked: str | list[tuple[str, str]], answer: str, **columns: Any
    ) -> str:
        """Append a finished turn; return its message id."""
        context = [("user", asked)] if isinstance(asked, str) else asked
        row = {
            **_common(f"turn {name}", user, name),
            "context": [{"role": role, "text": text} for role, text in context],
            "answer": answer,
            "finish_reason": "stop",
            "guard_category": "",
            "erased": False,
        }
        self._append("turns", {**row, **columns})
        return uid(name)

    def rank(
        self,
        name: str,
        user: str,
        *answers: tuple[str, int],
        rater: str = "",
        event: str = "",
        version: str = "nano-0",
    ) -> None:
        """Append a ranking.

        Args:
            name: turn to whose question the answers belong.
            answers: name of a turn, or a text with a space, and its rank.
            rater: reviewer; a ranking without one is a vote of the user.
            version: that the event names for each answer.
        """
        ranking = [
            {
                "message_id": "" if " " in answer else uid(answer),
                "text": answer if " " in answer else "",
                "model_version": version,
                "rank": rank,
            }
            for answer, rank in answers
        ]
        columns = {"ranking": ranking, "ranking_source": "review" if rater else "arena"}
        event = event or f"ranking {name} {rater}"
        self._say(name, user, event, rater, kind="ranking", **columns)

    def write(self, name: str, user: str, text: str, rater: str) -> None:
        """Append a better answer by a reviewer."""
        event = f"written {name} {rater}"
        self._say(name, user, event, rater, kind="correction", correction=text)

    def thumb(self, name: str, user: str, up: bool, event: str = "", **columns: Any) -> None:
        self._say(name, user, event or f"thumb {name}", kind="thumb", up=up, **columns)

    def correct(self, name: str, user: str, text: str, event: str = "") -> None:
        self._say(name, user, event or f"correction {name}", kind="correction", correction=text)

    def retract(self, name: str, user: str, what: str, event: str = "") -> None:
        self._say(
            name, user, event or f"retraction {name} {what}", kind="retraction", retracts=what
        )

    def commit(self) -> None:
        """Write all pending rows as one object per stream."""
        for stream, rows in self._pending.items():
            if rows:
                self._commit(stream, rows)
        self._pending = {"feedback": [], "turns": []}

    def feedback_segments(self) -> Sequence[Segment]:
        return self._segments["feedback"]

    def turn_segments(self) -> Sequence[Segment]:
        return self._segments["turns"]

    def erase(self, user: str) -> None:
        """Delete the key of the user. The rows remain, as before a compaction."""
        self._keys.pop(principal_of(user), None)
        self.ledger.append(Erasure(len(self.ledger) + 1, principal_of(user), str(uuid.uuid4())))

    def replace_sealed(self, stream: str, sealed: bytes) -> None:
        """Replace the sealed bytes of the last uncommitted row."""
        self._pending[stream][-1]["sealed"] = sealed

    def data_keys(self, principals: Sequence[str]) -> dict[str, DataKey]:
        self.asked += principals
        forbidden, strangers = (
            {principal_of(u) for u in users} for users in (self.forbidden, self.strangers)
        )
        return {
            name: self._data_key(name, name not in forbidden)
            for name in principals
            if name not in strangers
        }

    def erasures(self, after: int) -> Sequence[Erasure]:
        return self.ledger[after:]

    def version_feedback(
        self, versions: Sequence[str], since: datetime
    ) -> dict[str, VersionFigures]:
        return self.counts

    def _say(self, name: str, user: str, event: str, rater: str = "", **columns: Any) -> None:
        row = {**_common(event, user, name), **columns}
        self._append("feedback", {**row, "rater": principal_of(rater)} if rater else row)

    def _append(self, stream: str, row: dict[str, Any]) -> None:
        if self._sealing:
            rater_key = self._key(row["rater"]) if row.get("rater") else None
            row = sealed_row(row, self._key(row["principal"]), rater_key)
        self._pending[stream].append(
            {**row, "topic_id": TOPIC, "partition": 0, "offset": self._offsets[stream]}
        )
        self._offsets[stream] += 1

    def _key(self, principal: str) -> Key:
        return self._keys.setdefault(principal, Key.of(principal, len(self.ledger)))

    def _data_key(self, principal: str, consent: bool) -> DataKey:
        key = self._keys.get(principal)
        return DataKey(consent, key.id, key.bytes) if key and consent else DataKey(consent)

    def _commit(self, stream: str, rows: list[dict[str, Any]]) -> None:
        buffer = io.BytesIO()
        names = dict.fromkeys(name for row in rows for name in row)
        pq.write_table(pa.Table.from_pylist([{**names, **row} for row in rows]), buffer)
        data = buffer.getvalue()
        digest = hashlib.sha256(data).hexdigest()
        start, end = rows[0]["offset"], rows[-1]["offset"] + 1
        key = (
            f"{stream}/v1/topic_id={TOPIC}/partition=0/{start:020}-{end:020}-{digest[:12]}.parquet"
        )
        path = self._store / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self._note(stream, key, data, start, end)

    def _note(self, stream: str, key: str, data: bytes, start: int, end: int) -> None:
        known = self._segments[stream]
        digest = hashlib.sha256(data).hexdigest()
        known.append(Segment(len(known) + 1, TOPIC, 0, start, end, key, digest, end - start))


def _common(event: str, user: str, name: str) -> dict[str, Any]:
    return {
        "event_id": uid(event),
        "principal": principal_of(user),
        "message_id": uid(name),
        "conversation_id": uid(f"conversation {name}"),
        "model_version": "nano-0",
        "arm": "stable",
    }
