"""Both streams from acceptance to ledger over one database, with sealing and erasures."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, Table, select
from thumbwheel.feedback.v1 import events_pb2

from services.feedback import wire as codec
from services.feedback.events import Stream
from services.feedback.lake import parquet
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import Directory
from services.feedback.principals.data_keys import DataKeys
from services.feedback.principals.erasures import Erasures
from services.feedback.principals.sealing import MasterKey, Sealer, overtaken_turns
from services.feedback.projections import current_feedback
from services.feedback.sink import FlushLimits, Sink, SinkStep
from services.feedback.spool.accept import Acceptance, NewEventCount, NoClaims
from services.feedback.spool.spool import Spool
from services.feedback.store import tables
from tests.services.feedback.objects import decode
from tests.services.feedback.samples import FEEDBACK, MASTER, TURNS

ROOM = 1 << 22


class SealingWorld:
    """Both streams of a service; `at` is called at each step of either sink."""

    def __init__(self, root: Path, engine: Engine) -> None:
        self.root, self.engine = root, engine
        self.ledger = Ledger(engine)
        self.store = Directory(root / "objects")
        self.erasures = Erasures(engine)
        master = MasterKey(MASTER)
        self.keys = DataKeys(engine, master)
        self.at: Callable[[SinkStep], None] = lambda step: None
        self.feedback, self.turns = self._spool("feedback"), self._spool("turns")
        spoken = Sealer(events_pb2.FeedbackEvent, codec.extract_feedback_texts, self.keys, master)
        overtaken = partial(overtaken_turns, self.erasures.last)
        done = Sealer(
            events_pb2.TurnEvent, codec.extract_turn_texts, self.keys, master, overtaken=overtaken
        )
        self._said = Acceptance("feedback", self.feedback, self.ledger, NoClaims(), spoken)
        self._done = Acceptance("turns", self.turns, self.ledger, NoClaims(), done)
        limits = FlushLimits(100, ROOM)
        self.sinks: tuple[Sink[Any], Sink[Any]] = (
            Sink(
                FEEDBACK,
                self.feedback,
                self.store,
                self.ledger,
                limits,
                current_feedback.fold,
                self._at,
            ),
            Sink(
                TURNS,
                self.turns,
                self.store,
                self.ledger,
                limits,
                current_feedback.fold_turns,
                self._at,
            ),
        )

    def _spool(self, name: str) -> Spool:
        return Spool(self.root / "spool" / name, max_bytes=ROOM, segment_bytes=ROOM)

    def _at(self, step: SinkStep) -> None:
        self.at(step)

    def say(self, *events: events_pb2.FeedbackEvent) -> list[NewEventCount | Exception]:
        """Store feedback events, each with a call of its own."""
        return list(self._said.store([[codec.feedback_entry(event)] for event in events]).results)

    def finish(self, *events: events_pb2.TurnEvent) -> list[NewEventCount | Exception]:
        """Store turns, each with a call of its own."""
        return list(self._done.store([[codec.turn_entry(event)] for event in events]).results)

    def sink(self) -> None:
        """Sink all waiting events."""
        for sink in self.sinks:
            sink.assign()
            while sink.flush():
                pass

    def rows(self, stream: Stream = Stream.FEEDBACK) -> list[parquet.Row]:
        keys = [
            segment.object_key for segment in self.ledger.segments(stream) if segment.object_key
        ]
        return [row for key in keys for row in decode(self.store.get(key))]

    def all_of(self, table: Table) -> list[dict[str, Any]]:
        with self.engine.begin() as connection:
            return [dict(row._mapping) for row in connection.execute(select(table))]

    def current(self) -> tuple[int, int]:
        """Return the numbers of rows of thumbs and exposures."""
        return len(self.all_of(tables.thumbs)), len(self.all_of(tables.exposures))

    def close(self) -> None:
        self.feedback.close()
        self.turns.close()
