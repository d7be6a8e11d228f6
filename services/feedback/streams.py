"""One stream in this process, from ack to ledger: its spool, and either the sink behind it or Kafka
between the two.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.feedback import codec, metrics
from services.feedback.events import Stream
from services.feedback.lake import parquet
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStore
from services.feedback.settings import FeedbackSettings
from services.feedback.sink.drain import Drain, Flusher
from services.feedback.sink.sink import EventT, FlushLimits, Fold, Format, Sink
from services.feedback.spool.accept import Acceptance, Claims, GroupCommit, Sealing
from services.feedback.spool.frames import Record
from services.feedback.spool.log import Log
from services.feedback.spool.spool import Spool

FEEDBACK = Format(
    Stream.FEEDBACK, codec.decode_feedback, parquet.feedback_row, parquet.encode_feedback
)
TURNS = Format(Stream.TURNS, codec.decode_turn, parquet.turn_row, parquet.encode_turns)
REPLAY_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Stores:
    """Where segments go."""

    ledger: Ledger
    objects: ObjectStore


@dataclass(frozen=True)
class Accepting:
    """How a stream's events are accepted."""

    claims: Claims
    sealing: Sealing


@asynccontextmanager
async def open_stream(
    settings: FeedbackSettings,
    form: Format[EventT],
    stores: Stores,
    fold: Fold[EventT],
    accepting: Accepting,
    on_stored: Callable[[Sequence[Record]], None],
    on_committed: Callable[[int], None],
) -> AsyncIterator[GroupCommit]:
    """One stream from ack to ledger: what the spool still holds is taken up again before the first
    call.
    """
    spool = Spool(
        settings.spool_directory / form.stream,
        max_bytes=settings.max_spool_bytes,
        segment_bytes=settings.segment_bytes,
    )
    metrics.SPOOLED_BYTES.labels(form.stream).set_function(lambda: spool.bytes_used)
    metrics.SPOOL_LIMIT_BYTES.labels(form.stream).set(settings.max_spool_bytes)
    acceptance = Acceptance(form.stream, spool, stores.ledger, accepting.claims, accepting.sealing)
    limits = FlushLimits(settings.flush_rows, settings.flush_bytes)

    def sink_of(log: Log) -> Sink[EventT]:
        return Sink(form, log, stores.objects, stores.ledger, limits, fold)

    def remember(start: int) -> None:
        while records := spool.read(start, settings.flush_rows, REPLAY_BYTES):
            acceptance.remember(records)
            on_stored(records)
            start = records[-1].offset + 1

    def done(end: int) -> None:
        acceptance.forget(end)
        on_committed(end)

    group = GroupCommit(acceptance, on_stored)
    way = _through_kafka if settings.kafka_bootstrap else _straight
    async with way(settings, form.stream, spool, sink_of, remember, done):
        yield group
        await group.close()
    spool.close()


@asynccontextmanager
async def _straight(
    settings: FeedbackSettings,
    stream: Stream,
    spool: Spool,
    sink_of: Callable[[Log], Flusher],
    remember: Callable[[int], None],
    done: Callable[[int], None],
) -> AsyncIterator[None]:
    """The spool is the log that is sunk."""
    sink = sink_of(spool)
    sink.assign()
    remember(sink.position)
    drain = Drain(stream, spool, sink, settings.flush_rows, settings.flush_seconds, done)
    async with asyncio.TaskGroup() as tasks:
        # A sink that must not go on ends the process: the group cancels the service around it.
        tasks.create_task(drain.run())
        yield
        drain.stop()
    # Only after a clean end; otherwise a flush may still run in its thread, and the process is
    # about to end.
    await drain.finish()


@asynccontextmanager
async def _through_kafka(
    settings: FeedbackSettings,
    stream: Stream,
    spool: Spool,
    sink_of: Callable[[Log], Flusher],
    remember: Callable[[int], None],
    done: Callable[[int], None],
) -> AsyncIterator[None]:
    """The spool is relayed; what is sunk are the partitions that the group gives this process."""
    # The client costs a second of import: only who uses Kafka pays.
    from services.feedback.kafka.stream import relaying, sinking

    # While Kafka is away the client says so for every connection it tries, several times a second;
    # we say it once a try.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    remember(spool.start_offset)
    async with sinking(settings, stream, sink_of), relaying(settings, stream, spool, done):
        yield
