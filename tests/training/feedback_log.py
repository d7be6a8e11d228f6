"""A feedback service in memory for the loop's tests: events become committed Parquet objects in a real directory store."""

import hashlib
import io
import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from training.data.catalogue import Segment
from training.evaluation.canary import Thumbs

TOPIC = "11111111-2222-3333-4444-555555555555"


def uid(name: str) -> str:
    """A UUID that is the same in every run."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


class FeedbackLog:
    """Both streams of one partition, and the counts that a canary reads."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._segments: dict[str, list[Segment]] = {"feedback": [], "turns": []}
        self._pending: dict[str, list[dict[str, Any]]] = {"feedback": [], "turns": []}
        self._offsets = {"feedback": 0, "turns": 0}
        self.counts: dict[str, Thumbs] = {}

    @classmethod
    def reopen(cls, store: Path) -> "FeedbackLog":
        """The log that another process committed into this store."""
        log = cls(store)
        for path in sorted(store.glob("*/v1/*/*/*.parquet")):
            stream, (start, end, _) = path.relative_to(store).parts[0], path.stem.split("-")
            log._note(stream, path.relative_to(store).as_posix(), path.read_bytes(), int(start), int(end))
            log._offsets[stream] = int(end)
        return log

    def turn(self, name: str, user: str, asked: str | list[tuple[str, str]], answer: str, **columns: Any) -> str:
        """Append a finished turn; returns its message id."""
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

    def thumb(self, name: str, user: str, up: bool, event: str = "", **columns: Any) -> None:
        self._say(name, user, event or f"thumb {name}", kind="thumb", up=up, **columns)

    def correct(self, name: str, user: str, text: str, event: str = "") -> None:
        self._say(name, user, event or f"correction {name}", kind="correction", correction=text)

    def retract(self, name: str, user: str, what: str, event: str = "") -> None:
        self._say(name, user, event or f"retraction {name} {what}", kind="retraction", retracts=what)

    def commit(self) -> None:
        """Write what was appended since as one object a stream."""
        for stream, rows in self._pending.items():
            if rows:
                self._commit(stream, rows)
        self._pending = {"feedback": [], "turns": []}

    def feedback_segments(self) -> Sequence[Segment]:
        return self._segments["feedback"]

    def turn_segments(self) -> Sequence[Segment]:
        return self._segments["turns"]

    def count(self, since: datetime) -> dict[str, Thumbs]:
        return self.counts

    def _say(self, name: str, user: str, event: str, **columns: Any) -> None:
        self._append("feedback", {**_common(event, user, name), **columns})

    def _append(self, stream: str, row: dict[str, Any]) -> None:
        self._pending[stream].append({**row, "topic_id": TOPIC, "partition": 0, "offset": self._offsets[stream]})
        self._offsets[stream] += 1

    def _commit(self, stream: str, rows: list[dict[str, Any]]) -> None:
        buffer = io.BytesIO()
        names = dict.fromkeys(name for row in rows for name in row)
        pq.write_table(pa.Table.from_pylist([{**names, **row} for row in rows]), buffer)
        data = buffer.getvalue()
        digest = hashlib.sha256(data).hexdigest()
        start, end = rows[0]["offset"], rows[-1]["offset"] + 1
        key = f"{stream}/v1/topic_id={TOPIC}/partition=0/{start:020}-{end:020}-{digest[:12]}.parquet"
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
        "principal": hashlib.sha256(user.encode()).hexdigest(),
        "message_id": uid(name),
        "conversation_id": uid(f"conversation {name}"),
        "model_version": "nano-0",
        "arm": "stable",
    }
