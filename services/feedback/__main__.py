"""`python -m services.feedback` serves. Beside it: `migrate` moves Postgres' schema, `topics` and `bucket` make what servers must have,
`orphans` and `compact` tend the store, and `audit` proves that nothing is lost or twice.
"""

import asyncio
import logging
import sys
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY
from sqlalchemy import Engine
from thumbwheel.feedback.v1.events_pb2 import FeedbackEvent, TurnEvent
from thumbwheel.feedback.v1.feedback_pb2_grpc import add_FeedbackLogServiceServicer_to_server

from services.chassis.server import Registration, run_service
from services.chassis.settings import load_settings
from services.chassis.telemetry import fields
from services.feedback import codec, experiments, metrics, parquet, remarks, said, thumbs
from services.feedback.accept import Acceptance, Claims, GroupCommit, NoClaims, Sealing
from services.feedback.access import CALLERS
from services.feedback.audit import audit
from services.feedback.catalogue import Catalogue
from services.feedback.claims import PostgresClaims, sweep_hourly
from services.feedback.compaction import Compaction
from services.feedback.compaction_schedule import compact_all, compacting
from services.feedback.compactors import Compactors
from services.feedback.consents import Consents
from services.feedback.data_keys import DataKeys
from services.feedback.database import HEAD, connect, migrate, open_database, revision
from services.feedback.dead_letters import empty_hourly
from services.feedback.drain import Drain, Flusher
from services.feedback.erasure_metrics import keep_counting
from services.feedback.erasures import Erasures
from services.feedback.events import Stream
from services.feedback.experiment_metrics import ExperimentMetrics, keep_looking
from services.feedback.frames import Entry, Record
from services.feedback.ledger import Ledger
from services.feedback.log import Log, LogView
from services.feedback.master_key import MasterKey, MasterKeyError
from services.feedback.object_store import Directory, ObjectRefusedError, ObjectStore, ObjectStoreError
from services.feedback.overlay import Overlay
from services.feedback.principal_servicer import Principals
from services.feedback.sealer import Sealer, late_turns
from services.feedback.servicer import FeedbackLogServicer
from services.feedback.settings import FeedbackSettings
from services.feedback.sink import EventT, FlushLimits, Fold, Format, Sink
from services.feedback.spool import Spool
from services.feedback.spool_folder import inspect
from services.feedback.store_commands import add_orphan_options, collect_orphans, make_bucket

if TYPE_CHECKING:
    from services.feedback.s3_store import S3Store

NAME = "thumbwheel.feedback.v1.FeedbackLogService"
FEEDBACK = Format(Stream.FEEDBACK, codec.decode_feedback, parquet.feedback_row, parquet.encode_feedback)
TURNS = Format(Stream.TURNS, codec.decode_turn, parquet.turn_row, parquet.encode_turns)
REPLAY_BYTES = 4 * 1024 * 1024
DAY_SECONDS = 86_400.0

log = logging.getLogger(__name__)


# Session's relay and training ask again by themselves; a thumb waits for its ack.
BATCH = frozenset({"AppendTurns", "ListSegments", "CountThumbs", "GetDataKeys", "ListErasures"})


@asynccontextmanager
async def wiring(
    settings: FeedbackSettings, shown: ExperimentMetrics | None = None
) -> AsyncIterator[Sequence[Registration]]:
    """Open stores and both streams; close them in reverse. `shown`: where Prometheus finds the experiments."""
    engine, master = open_database(settings.database_url), MasterKey(settings.master_key.get_secret_value())
    keys = DataKeys(engine, master)
    keys.check()
    erasures = Erasures(engine)
    stores = Stores(Ledger(engine), await asyncio.to_thread(_tried_store, settings))
    said.catch_up(stores.ledger, stores.objects, Stream.FEEDBACK)
    experiments.catch_up(stores.ledger, stores.objects, Stream.TURNS)
    ways = _one_process() if engine.dialect.name == "sqlite" else _many(engine)
    spoken = Accepting(ways.claims[0], Sealer(FeedbackEvent, codec.take_feedback_texts, keys, master))
    late = partial(late_turns, erasures.last)
    done = Accepting(ways.claims[1], Sealer(TurnEvent, codec.take_turn_texts, keys, master, late=late))
    async with (
        _stream(settings, FEEDBACK, stores, said.fold, spoken, ways.on_stored, ways.on_committed) as feedback,
        _stream(settings, TURNS, stores, experiments.fold, done, _nothing, _nothing) as turns,
    ):
        key, pending = settings.principal_key.get_secret_value(), thumbs.Thumbs(engine, ways.pending)
        figures = experiments.Experiments(engine, pending)
        consents = Consents(engine, settings.training_consent_default)
        principals = Principals(keys, consents, erasures, ways.on_erased)
        words = remarks.Remarks(engine, ways.words, keys, codec.words_from)
        standing = said.Said(pending, words)
        servicer = FeedbackLogServicer(key, feedback, turns, Catalogue(stores.ledger), standing, figures, principals)
        beside = _beside(
            *(sweep_hourly(claims, settings.claim_days * DAY_SECONDS) for claims in ways.claims),
            empty_hourly(engine, settings.dead_letter_days * DAY_SECONDS),
            keep_looking(figures, shown or ExperimentMetrics()),
            keep_counting(erasures),
            *([remarks.expire_hourly(engine, settings.keep_days * DAY_SECONDS)] if settings.keep_days else []),
        )
        compaction = compacting(_compaction(settings, engine, stores), settings.compaction_minutes * 60)
        async with beside, compaction:
            yield [Registration(NAME, add_FeedbackLogServiceServicer_to_server, servicer, batch=BATCH)]
    engine.dispose()


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


@dataclass(frozen=True)
class Ways:
    """What differs between one process and many: who came first, and where thumbs and words are that no segment has yet."""

    claims: tuple[Claims, Claims]
    pending: thumbs.Pending
    words: remarks.Pending
    on_stored: Callable[[Sequence[Record]], None]
    on_committed: Callable[[int], None]
    on_erased: Callable[[str], None]


def _one_process() -> Ways:
    rated, worded = Overlay(codec.decode_feedback, thumbs.change_of), Overlay(codec.decode_feedback, remarks.change_of)

    def take(records: Sequence[Record]) -> None:
        rated.take(records)
        worded.take(records)

    def trim(before: int) -> None:
        rated.trim(before)
        worded.trim(before)

    def forget(principal: str) -> None:
        rated.forget(principal)
        worded.forget(principal)

    return Ways((NoClaims(), NoClaims()), rated, worded, take, trim, forget)


def _many(engine: Engine) -> Ways:
    def change_of(entry: Entry) -> thumbs.Change | None:
        return thumbs.change_of(codec.decode_feedback(Record(0, 0, entry)), 0)

    feedback = PostgresClaims(engine, Stream.FEEDBACK, change_of)
    turns = PostgresClaims(engine, Stream.TURNS, lambda entry: None)
    return Ways((feedback, turns), feedback, remarks.NonePending(), _nothing, _nothing, _nothing)


def _nothing(_argument: object) -> None:
    """Nobody needs to be told."""


@asynccontextmanager
async def _beside(*work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """As long as the block runs."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


def _compaction(settings: FeedbackSettings, engine: Engine, stores: Stores) -> Compaction:
    return Compaction(stores.ledger, Compactors(engine), stores.objects, Erasures(engine), settings.compaction_pace())


@asynccontextmanager
async def _stream(
    settings: FeedbackSettings,
    form: Format[EventT],
    stores: Stores,
    fold: Fold[EventT],
    accepting: Accepting,
    on_stored: Callable[[Sequence[Record]], None],
    on_committed: Callable[[int], None],
) -> AsyncIterator[GroupCommit]:
    """One stream from ack to ledger: what the spool still holds is taken up again before the first call."""
    spool = Spool(
        settings.spool_directory / form.stream, max_bytes=settings.max_spool_bytes, segment_bytes=settings.segment_bytes
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
    # Only after a clean end; otherwise a flush may still run in its thread, and the process is about to end.
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
    from services.feedback.kafka_stream import relaying, sinking

    # While Kafka is away the client says so for every connection it tries, several times a second; we say it once a try.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    remember(spool.start_offset)
    async with sinking(settings, stream, sink_of), relaying(settings, stream, spool, done):
        yield


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
    report = audit(ledger, _store(settings), lambda stream: _log_views(settings, stream))
    print("\n".join(report.lines()))
    return 1 if report.problems else 0


def _compact(settings: FeedbackSettings) -> int:
    engine = open_database(settings.database_url)
    return compact_all(_compaction(settings, engine, Stores(Ledger(engine), _store(settings))))


def _log_views(settings: FeedbackSettings, stream: Stream) -> list[LogView]:
    if settings.kafka_bootstrap:
        from services.feedback.kafka_topic import look_at

        return look_at(settings.cluster(), settings.topic(stream))
    return inspect(settings.spool_directory / stream)


def _bucket(settings: FeedbackSettings) -> int:
    if not settings.s3_endpoint:
        print("s3_endpoint: is empty, so objects lie in a directory, which needs no bucket", file=sys.stderr)
        return 2
    make_bucket(_s3(settings), settings.s3_bucket)
    return 0


def _migrate(settings: FeedbackSettings) -> int:
    engine = connect(settings.database_url)
    before = revision(engine)
    migrate(engine)
    print(f"feedback database: revision {before or 'none'} → {HEAD}")
    return 0


def _topics(settings: FeedbackSettings) -> int:
    from services.feedback.kafka_topic import open_admin
    from services.feedback.topics import Plan, make_topics

    plan = Plan(settings.partitions, settings.replication_factor, settings.min_insync_replicas, settings.retention_days)
    with open_admin(settings.cluster()) as admin:
        print("\n".join(make_topics(admin, [settings.topic(stream) for stream in Stream], plan)))
    return 0


def _serve(settings: FeedbackSettings) -> int:
    shown = ExperimentMetrics()
    REGISTRY.register(shown)
    run_service("feedback", settings, partial(wiring, shown=shown), CALLERS)
    return 0


COMMANDS = {
    "serve": (_serve, "the default"),
    "audit": (_audit, "prove from store, ledger and log that nothing is lost or twice"),
    "compact": (_compact, "merge small objects and leave out what must go: one pass now"),
    "migrate": (_migrate, "bring the database's tables up to date"),
    "topics": (_topics, "make Kafka's topics, or say how they are"),
    "bucket": (_bucket, "make the S3 bucket, and try it"),
}


def main() -> int:
    """Run a command; its exit status."""
    parser = ArgumentParser(prog="python -m services.feedback", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    for name, (_, what) in COMMANDS.items():
        commands.add_parser(name, help=what)
    add_orphan_options(
        commands.add_parser("orphans", help="list objects that no ledger row names; with --delete, delete")
    )
    options, settings = parser.parse_args(), load_settings(FeedbackSettings)
    try:
        if options.command == "orphans":
            ledger = Ledger(open_database(settings.database_url))
            collect_orphans(ledger, _store(settings), options.older_than, options.delete)
            return 0
        return COMMANDS[options.command or "serve"][0](settings)
    except ObjectStoreError as error:
        print(f"object store: {error}", file=sys.stderr)
        return 1
    except MasterKeyError as error:
        print(f"master_key: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
