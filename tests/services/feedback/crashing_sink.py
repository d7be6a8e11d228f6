"""Sink over a real spool, store and ledger that kills its own process at a step."""

import os
import signal
from pathlib import Path

from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import Directory
from services.feedback.projections.thumbs import fold
from services.feedback.sink import FlushLimits, Sink, SinkStep
from services.feedback.spool.spool import Spool
from services.feedback.store.database import open_database
from tests.services.feedback.samples import FEEDBACK


def sink_until(fatal: str, root: Path) -> None:
    def at(step: SinkStep) -> None:
        if step == fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    spool = Spool(root / "spool" / "feedback", max_bytes=1 << 20, segment_bytes=1 << 20)
    ledger = Ledger(open_database(f"sqlite:///{root}/ledger.db"))
    sink = Sink(
        FEEDBACK, spool, Directory(root / "objects"), ledger, FlushLimits(100, 1 << 20), fold, at
    )
    sink.assign()
    while sink.flush():
        pass
