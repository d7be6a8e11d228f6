"""`python -m services.feedback` serves; `python -m services.feedback audit` proves that nothing is lost or twice."""

import asyncio
import sys
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from thumbwheel.feedback.v1.feedback_pb2_grpc import add_FeedbackLogServiceServicer_to_server

from services.chassis.server import Registration, run_service
from services.chassis.settings import load_settings
from services.feedback import codec, parquet, thumbs
from services.feedback.accept import Acceptance, GroupCommit
from services.feedback.audit import audit
from services.feedback.catalogue import Catalogue
from services.feedback.claims import NoClaims
from services.feedback.database import open_database
from services.feedback.drain import Drain
from services.feedback.events import Stream
from services.feedback.frames import Record
from services.feedback.ledger import Ledger
from services.feedback.object_store import Directory
from services.feedback.servicer import FeedbackLogServicer
from services.feedback.settings import FeedbackSettings
from services.feedback.sink import FlushLimits, Fold, Format, Sink, no_projection
from services.feedback.spool import Spool
from services.feedback.spool_folder import inspect

NAME = "thumbwheel.feedback.v1.FeedbackLogService"
FEEDBACK = Format(Stream.FEEDBACK, parquet.FEEDBACK_SCHEMA, codec.decode_feedback, parquet.feedback_row)
TURNS = Format(Stream.TURNS, parquet.TURNS_SCHEMA, codec.decode_turn, parquet.turn_row)
REPLAY_BYTES = 4 * 1024 * 1024
EventT = TypeVar("EventT")


@asynccontextmanager
async def wiring(settings: FeedbackSettings) -> AsyncIterator[Sequence[Registration]]:
    """Open stores and both streams; close them in reverse."""
    engine = open_database(settings.database_url)
    ledger, store = Ledger(engine), Directory(settings.object_directory)
    thumbs.catch_up(ledger, store, Stream.FEEDBACK)
    overlay = thumbs.Overlay(codec.decode_feedback)
    async with (
        _stream(settings, FEEDBACK, ledger, store, thumbs.fold, overlay.take, overlay.trim) as feedback,
        _stream(settings, TURNS, ledger, store, no_projection, lambda records: None, lambda end: None) as turns,
    ):
        key = settings.principal_key.get_secret_value()
        servicer = FeedbackLogServicer(key, feedback, turns, Catalogue(ledger), thumbs.Thumbs(engine, overlay))
        yield [Registration(NAME, add_FeedbackLogServiceServicer_to_server, servicer)]
    engine.dispose()


@asynccontextmanager
async def _stream(
    settings: FeedbackSettings,
    form: Format[EventT],
    ledger: Ledger,
    store: Directory,
    fold: Fold[EventT],
    on_stored: Callable[[Sequence[Record]], None],
    on_committed: Callable[[int], None],
) -> AsyncIterator[GroupCommit]:
    """One stream from ack to ledger: what the spool holds beyond the ledger is taken up again before the first call."""
    spool = Spool(
        settings.spool_directory / form.stream,
        max_bytes=settings.max_spool_bytes,
        segment_bytes=settings.segment_bytes,
    )
    sink = Sink(form, spool, store, ledger, FlushLimits(settings.flush_rows, settings.flush_bytes), fold)
    sink.assign()
    acceptance = Acceptance(form.stream, spool, ledger, NoClaims())
    position = sink.position
    while records := spool.read(position, settings.flush_rows, REPLAY_BYTES):
        acceptance.remember(records)
        on_stored(records)
        position = records[-1].offset + 1

    def committed(end: int) -> None:
        acceptance.forget(end)
        on_committed(end)

    log = GroupCommit(acceptance, on_stored)
    drain = Drain(form.stream, spool, sink, settings.flush_rows, settings.flush_seconds, committed)
    async with asyncio.TaskGroup() as tasks:
        # A sink that must not go on ends the process: the group cancels the service around it.
        tasks.create_task(drain.run())
        yield log
        drain.stop()
    # Only after a clean end; otherwise a flush may still run in its thread, and the process is about to end.
    await log.close()
    await drain.finish()
    spool.close()


def _audit(settings: FeedbackSettings) -> int:
    ledger, store = Ledger(open_database(settings.database_url)), Directory(settings.object_directory)
    report = audit(ledger, store, lambda stream: inspect(settings.spool_directory / stream))
    print("\n".join(report.lines()))
    return 1 if report.problems else 0


def main() -> int:
    """Serve, or audit."""
    parser = ArgumentParser(prog="python -m services.feedback", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["serve", "audit"], default="serve")
    command = parser.parse_args().command
    settings = load_settings(FeedbackSettings)
    if command == "audit":
        return _audit(settings)
    run_service("feedback", settings, wiring)
    return 0


if __name__ == "__main__":
    sys.exit(main())
