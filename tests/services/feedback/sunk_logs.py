"""Logs of any number of partitions, sunk over one database and one object store."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import Directory
from services.feedback.sink import FlushLimits, Fold, Sink, StreamFormat
from services.feedback.spool.log import Entry
from services.feedback.spool.spool import Spool

ROOM = 1 << 20


class SunkLogs:
    """Ledger and store with logs that are sunk at once."""

    def __init__(self, root: Path, engine: Engine) -> None:
        self.engine, self.ledger, self.store = engine, Ledger(engine), Directory(root / "objects")
        self.root = root
        self.spools: list[Spool] = []

    def sink_entries(
        self,
        stream_format: StreamFormat[Any],
        entries: Iterable[Entry],
        fold: Fold[Any],
        on: Spool | None = None,
    ) -> Spool:
        """Sink entries through a new log, like another partition, or through an existing log."""
        spool = on or Spool(
            self.root / f"spool-{len(self.spools)}", max_bytes=ROOM, segment_bytes=ROOM
        )
        if not on:
            self.spools.append(spool)
        spool.append(list(entries))
        sink = Sink(stream_format, spool, self.store, self.ledger, FlushLimits(100, ROOM), fold)
        sink.assign()
        sink.flush()
        return spool

    def close(self) -> None:
        """Close the logs of all replicas."""
        for spool in self.spools:
            spool.close()
