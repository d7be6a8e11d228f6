"""Pipeline of one stream in this process, from acknowledgement to ledger.

The spool is followed either directly by the sink or by Kafka and then the sink.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from services.chassis.telemetry import fields
from services.feedback import metrics
from services.feedback import wire as codec
from services.feedback.events import Stream
from services.feedback.lake import parquet
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStore
from services.feedback.settings import FeedbackSettings
from services.feedback.sink import EventT, FlushLimits, Fold, Sink, StreamFormat
from services.feedback.sink_loop import Flusher, SinkLoop
from services.feedback.spool.accept import Acceptance, Claims, EntrySealer, GroupCommit
from services.feedback.spool.log import Log, Record
from services.feedback.spool.registry import LogState, SpoolRegistry
from services.feedback.spool.spool import Spool

FEEDBACK = StreamFormat(
    Stream.FEEDBACK, codec.decode_feedback, parquet.feedback_row, parquet.encode_feedback
)
TURNS = StreamFormat(Stream.TURNS, codec.decode_turn, parquet.turn_row, parquet.encode_turns)
REPLAY_BYTES = 4 * 1024 * 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stores:
    """Ledger and object store of the feedback table.

    `registry` is the register of write-ahead logs, and `signing_key` the key of the signatures of
    records, both with Kafka.
    """

    ledger: Ledger
    objects: ObjectStore
    registry: SpoolRegistry | None = None
    signing_key: bytes = b""


class OpenStream:
    """Open stream of this process: its group commit and its write-ahead log."""

    def __init__(self, stream: Stream, group: GroupCommit, spool: Spool, directory: Path) -> None:
        self.group = group
        self._stream, self._spool, self._directory = stream, spool, directory
        self._released = spool.start_offset

    def release(self, end: int) -> None:
        """Note that all records below an offset are at the broker, or in the ledger."""
        self._released = end

    def log_state(self) -> LogState:
        """Return the state of the log, also after its end."""
        end = self._spool.end_offset
        return LogState(
            self._stream, self._spool.topic_id, self._directory, end, end - self._released
        )


@asynccontextmanager
async def open_stream(
    settings: FeedbackSettings,
    stream_format: StreamFormat[EventT],
    stores: Stores,
    fold: Fold[EventT],
    claims: Claims,
    sealing: EntrySealer,
    on_stored: Callable[[Sequence[Record]], None] = lambda records: None,
    on_sunk: Callable[[int], None] = lambda end: None,
) -> AsyncIterator[OpenStream]:
    """Open a stream and replay unsunk records of the spool before the first call.

    Args:
        on_stored: Called on the event loop with stored records, before their acknowledgement.
        on_sunk: Called with an offset, on the event loop once all records below are in the ledger;
            with Kafka on the relay's thread once they are at the broker.
    """
    directory = settings.spool_directory / stream_format.stream
    spool = Spool(
        directory,
        max_bytes=settings.max_spool_bytes,
        segment_bytes=settings.segment_bytes,
    )
    metrics.SPOOLED_BYTES.labels(stream_format.stream).set_function(lambda: spool.bytes_used)
    metrics.SPOOL_LIMIT_BYTES.labels(stream_format.stream).set(settings.max_spool_bytes)
    acceptance = Acceptance(stream_format.stream, spool, stores.ledger, claims, sealing)
    limits = FlushLimits(settings.flush_rows, settings.flush_bytes)
    accepts = _unsigned_rule(settings, stream_format.stream, stores.ledger)

    def make_sink(source: Log) -> Sink[EventT]:
        objects, ledger = stores.objects, stores.ledger
        return Sink(stream_format, source, objects, ledger, limits, fold, accepts_unsigned=accepts)

    group = GroupCommit(acceptance, on_stored)
    opened = OpenStream(stream_format.stream, group, spool, directory)

    def remember(start: int) -> None:
        opened.release(start)
        while records := spool.read(start, settings.flush_rows, REPLAY_BYTES):
            acceptance.remember(records)
            on_stored(records)
            start = records[-1].offset + 1

    def release(end: int) -> None:
        acceptance.forget(end)
        opened.release(end)
        on_sunk(end)

    kafka_path = partial(_relay_and_sink, signing_key=stores.signing_key)
    path = kafka_path if settings.kafka_bootstrap else _sink_spool
    async with path(settings, stream_format.stream, spool, make_sink, remember, release):
        if stores.registry:
            # Before the first acknowledgement, so that no log with events is unknown.
            await asyncio.to_thread(stores.registry.report, [opened.log_state()])
        yield opened
        await group.close()
    spool.close()
    if stores.registry:
        await asyncio.to_thread(stores.registry.close, opened.log_state())


def _unsigned_rule(
    settings: FeedbackSettings, stream: Stream, ledger: Ledger
) -> Callable[[], bool]:
    """Return a function: are records without a signature accepted at present?"""
    until_us = settings.unsigned_until_us(ledger.signed_since_us(stream))

    def accepts() -> bool:
        return time.time_ns() // 1_000 < until_us

    if settings.kafka_bootstrap and accepts():
        # Until then, a client that may write to the topic can forge records.
        log.warning(
            "records without a signature are accepted",
            extra=fields(stream=stream, until_us=until_us),
        )
    return accepts


@asynccontextmanager
async def _sink_spool(
    settings: FeedbackSettings,
    stream: Stream,
    spool: Spool,
    make_sink: Callable[[Log], Flusher],
    remember: Callable[[int], None],
    on_sunk: Callable[[int], None],
) -> AsyncIterator[None]:
    """Sink the records of the spool directly (single replica)."""
    sink = make_sink(spool)
    sink.assign()
    remember(sink.position)
    sink_loop = SinkLoop(stream, spool, sink, settings.flush_rows, settings.flush_seconds, on_sunk)
    async with asyncio.TaskGroup() as tasks:
        # A permanent failure of the sink ends the process: the task group cancels the service.
        tasks.create_task(sink_loop.run())
        yield
        sink_loop.stop()
    # Finish only after a clean end. After a failure a flush may still run in its thread, and the
    # process is about to exit.
    await sink_loop.finish()


@asynccontextmanager
async def _relay_and_sink(
    settings: FeedbackSettings,
    stream: Stream,
    spool: Spool,
    make_sink: Callable[[Log], Flusher],
    remember: Callable[[int], None],
    on_sunk: Callable[[int], None],
    signing_key: bytes,
) -> AsyncIterator[None]:
    """Relay the spool to Kafka and sink the partitions assigned to this process."""
    # Importing the Kafka client takes one second; embedded runs skip this cost.
    from services.feedback.kafka.stream import relaying, sinking

    # While Kafka is unavailable the client logs each failed connection, several per second. This
    # service logs each attempt once.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    remember(spool.start_offset)
    async with (
        sinking(settings, stream, signing_key, make_sink),
        relaying(settings, stream, spool, signing_key, on_sunk),
    ):
        yield
