"""`python -m services.feedback` serves; `audit` proves that nothing is lost or twice; `bucket` and `orphans` tend the store."""

import asyncio
import logging
import sys
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from thumbwheel.feedback.v1.feedback_pb2_grpc import add_FeedbackLogServiceServicer_to_server

from services.chassis.server import Registration, run_service
from services.chassis.settings import load_settings
from services.chassis.telemetry import fields
from services.feedback import codec, parquet, thumbs
from services.feedback.accept import Acceptance, GroupCommit
from services.feedback.access import CALLERS
from services.feedback.audit import audit
from services.feedback.catalogue import Catalogue
from services.feedback.drain import Drain
from services.feedback.events import Stream
from services.feedback.frames import Record
from services.feedback.ledger import Ledger, open_database
from services.feedback.object_store import Directory, ObjectRefusedError, ObjectStore, ObjectStoreError
from services.feedback.servicer import FeedbackLogServicer
from services.feedback.settings import FeedbackSettings
from services.feedback.sink import FlushLimits, Fold, Format, Sink, no_projection
from services.feedback.spool import Spool
from services.feedback.spool_folder import inspect
from services.feedback.store_commands import add_orphan_options, collect_orphans, make_bucket

if TYPE_CHECKING:
    from services.feedback.s3_store import S3Store

NAME = "thumbwheel.feedback.v1.FeedbackLogService"
FEEDBACK = Format(Stream.FEEDBACK, parquet.FEEDBACK_SCHEMA, codec.decode_feedback, parquet.feedback_row)
TURNS = Format(Stream.TURNS, parquet.TURNS_SCHEMA, codec.decode_turn, parquet.turn_row)
REPLAY_BYTES = 4 * 1024 * 1024
EventT = TypeVar("EventT")

log = logging.getLogger(__name__)


# Session's relay and training ask again by themselves; a thumb waits for its ack.
BATCH = frozenset({"AppendTurns", "ListSegments", "CountThumbs"})


@asynccontextmanager
async def wiring(settings: FeedbackSettings) -> AsyncIterator[Sequence[Registration]]:
    """Open stores and both streams; close them in reverse."""
    engine = open_database(settings.database_url)
    ledger, store = Ledger(engine), await asyncio.to_thread(_tried_store, settings)
    thumbs.catch_up(engine, ledger, store, Stream.FEEDBACK)
    overlay = thumbs.Overlay(codec.decode_feedback)
    async with (
        _stream(settings, FEEDBACK, ledger, store, thumbs.fold, overlay.take, overlay.trim) as feedback,
        _stream(settings, TURNS, ledger, store, no_projection, lambda records: None, lambda end: None) as turns,
    ):
        key = settings.principal_key.get_secret_value()
        servicer = FeedbackLogServicer(key, feedback, turns, Catalogue(ledger), thumbs.Thumbs(engine, overlay))
        yield [Registration(NAME, add_FeedbackLogServiceServicer_to_server, servicer, BATCH)]
    engine.dispose()


@asynccontextmanager
async def _stream(
    settings: FeedbackSettings,
    form: Format[EventT],
    ledger: Ledger,
    store: ObjectStore,
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
    acceptance = Acceptance(form.stream, spool, ledger)
    position = sink.position
    while records := spool.read(position, settings.flush_rows, REPLAY_BYTES):
        acceptance.remember(records)
        on_stored(records)
        position = records[-1].offset + 1

    def committed(end: int) -> None:
        acceptance.forget(end)
        on_committed(end)

    group = GroupCommit(acceptance, on_stored)
    drain = Drain(form.stream, spool, sink, settings.flush_rows, settings.flush_seconds, committed)
    async with asyncio.TaskGroup() as tasks:
        # A sink that must not go on ends the process: the group cancels the service around it.
        tasks.create_task(drain.run())
        yield group
        drain.stop()
    # Only after a clean end; otherwise a flush may still run in its thread, and the process is about to end.
    await group.close()
    await drain.finish()
    spool.close()


def _store(settings: FeedbackSettings) -> ObjectStore:
    return _s3(settings) if settings.s3_endpoint else Directory(settings.object_directory)


def _s3(settings: FeedbackSettings) -> "S3Store":
    # 0.15 s of processor time and 6 MB that an embedded run need not pay.
    from services.feedback.s3_store import S3Place, S3Store

    place = S3Place(
        endpoint=settings.s3_endpoint,
        bucket=settings.s3_bucket,
        region=settings.s3_region,
        secure=settings.s3_secure,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key.get_secret_value(),
        connect_seconds=settings.s3_connect_seconds,
        request_seconds=settings.s3_request_seconds,
    )
    return S3Store(place)


def _tried_store(settings: FeedbackSettings) -> ObjectStore:
    """A store that refuses stops the start. One that is away does not: what is acknowledged waits in the spool."""
    if not settings.s3_endpoint:
        return _store(settings)
    store = _s3(settings)
    try:
        store.check()
    except ObjectRefusedError:
        raise
    except ObjectStoreError as error:
        log.warning("object store is away", extra=fields(endpoint=settings.s3_endpoint, error=str(error)))
    return store


def _audit(settings: FeedbackSettings) -> int:
    ledger = Ledger(open_database(settings.database_url))
    report = audit(ledger, _store(settings), lambda stream: inspect(settings.spool_directory / stream))
    print("\n".join(report.lines()))
    return 1 if report.problems else 0


def _bucket(settings: FeedbackSettings) -> int:
    if not settings.s3_endpoint:
        print("s3_endpoint: is empty, so objects lie in a directory, which needs no bucket", file=sys.stderr)
        return 2
    make_bucket(_s3(settings), settings.s3_bucket)
    return 0


def main() -> int:
    """The exit status."""
    parser = ArgumentParser(prog="python -m services.feedback", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("serve", help="the default")
    commands.add_parser("audit", help="prove from store, ledger and spool that nothing is lost or twice")
    commands.add_parser("bucket", help="make the S3 bucket, and try it")
    add_orphan_options(
        commands.add_parser("orphans", help="list objects that no ledger row names; with --delete, delete")
    )
    options = parser.parse_args()
    settings = load_settings(FeedbackSettings)
    try:
        match options.command:
            case "audit":
                return _audit(settings)
            case "bucket":
                return _bucket(settings)
            case "orphans":
                ledger = Ledger(open_database(settings.database_url))
                collect_orphans(ledger, _store(settings), options.older_than, options.delete)
            case _:
                run_service("feedback", settings, wiring, CALLERS)
    except ObjectStoreError as error:
        print(f"object store: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
