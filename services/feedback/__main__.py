"""Command line of the feedback service, `python -m services.feedback`.

Without a subcommand the service runs, and its exit status is 3 if acknowledged events are left in
its write-ahead logs. Commands: `migrate` updates the Postgres schema, `topics` and `bucket` create
topics and bucket, `spools` and `relay` list and empty write-ahead logs, `orphans` and `compact`
maintain the object store, `audit` verifies the stored data, and `rotate-master-key` wraps the data
keys under a new master key.
"""

import asyncio
import socket
import sys
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from prometheus_client import REGISTRY
from sqlalchemy import Engine
from thumbwheel.feedback.v1.events_pb2 import FeedbackEvent, TurnEvent
from thumbwheel.feedback.v1.feedback_pb2_grpc import add_FeedbackLogServiceServicer_to_server

from services.chassis.server import Registration, run_service
from services.chassis.settings import load_settings
from services.feedback import wire as codec
from services.feedback.access import CALLERS
from services.feedback.commands import add_commands, compaction_of, run_command
from services.feedback.compaction.schedule import run_compaction
from services.feedback.events import Stream
from services.feedback.lake.dead_letter_payloads import clear_payloads_hourly
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.location import verified_store
from services.feedback.lake.object_store import ObjectStoreError
from services.feedback.principals.consents import Consents
from services.feedback.principals.data_keys import DataKeys, FingerprintKeyMissingError
from services.feedback.principals.erasures import Erasures, update_metrics_periodically
from services.feedback.principals.sealing import MasterKeyError, Sealer, overtaken_turns
from services.feedback.projections import (
    answers,
    current_feedback,
    experiments,
    expiry,
    remarks,
    thumbs,
)
from services.feedback.projections.current_feedback import CurrentFeedback, fold, fold_turns
from services.feedback.projections.experiments import ExperimentMetrics, refresh_periodically
from services.feedback.projections.projection import catch_up_periodically
from services.feedback.projections.version_feedback import (
    RateMetrics,
    VersionFeedbacks,
    refresh_rates_periodically,
)
from services.feedback.servicer import FeedbackLogServicer, Principals
from services.feedback.settings import FeedbackSettings
from services.feedback.spool.accept import Claims, NoClaims
from services.feedback.spool.claims import PostgresClaims, sweep_hourly
from services.feedback.spool.log import Entry, Record
from services.feedback.spool.registry import (
    EventsWaitingError,
    SpoolRegistry,
    report_periodically,
    require_empty,
)
from services.feedback.store.database import opened_database
from services.feedback.streams import FEEDBACK, TURNS, Stores, open_stream

NAME = "thumbwheel.feedback.v1.FeedbackLogService"
DAY_SECONDS = 86_400.0
EXIT_EVENTS_WAITING = 3
# Callers of these methods (relay of the session service, training) retry on their own. A thumb
# waits for its acknowledgement and has priority.
BATCH = frozenset(
    {
        "AppendTurns",
        "ListSegments",
        "CountThumbs",
        "GetVersionFeedback",
        "GetDataKeys",
        "ListErasures",
    }
)


@asynccontextmanager
async def wiring(
    settings: FeedbackSettings,
    exported: ExperimentMetrics | None = None,
    rates: RateMetrics | None = None,
) -> AsyncIterator[Sequence[Registration]]:
    """Open the stores and both streams, and close them in reverse order.

    Args:
        settings: Settings of the service.
        exported: Collector for the figures of experiments; by default a new, unregistered
            collector.
        rates: Collector for the rates of versions, as above.
    """
    with opened_database(settings.database_url) as engine:
        collectors = exported or ExperimentMetrics(), rates or RateMetrics()
        async with _open_streams(settings, engine, *collectors) as running:
            yield running


@asynccontextmanager
async def _open_streams(
    settings: FeedbackSettings, engine: Engine, exported: ExperimentMetrics, rates: RateMetrics
) -> AsyncIterator[Sequence[Registration]]:
    configured = settings.master_keys()
    keys = DataKeys(engine, configured)
    keys.check()
    master = configured.with_fingerprints(keys.fingerprint_key())
    erasures, consents = Erasures(engine), Consents(engine, settings.training_consent_default)
    registry = SpoolRegistry(engine, socket.gethostname()) if settings.kafka_bootstrap else None
    objects = await asyncio.to_thread(verified_store, settings)
    stores = Stores(Ledger(engine), objects, registry, master.record_key())
    _catch_up(stores)
    mode = _single_replica() if engine.dialect.name == "sqlite" else _many_replicas(engine)
    overtaken = partial(overtaken_turns, erasures.last)
    sealer = Sealer(FeedbackEvent, codec.extract_feedback_texts, keys, master)
    turn_sealer = Sealer(TurnEvent, codec.extract_turn_texts, keys, master, overtaken=overtaken)
    claims = mode.claims
    async with (
        AsyncExitStack() as closing,
        open_stream(
            settings, FEEDBACK, stores, fold, claims[0], sealer, mode.on_stored, mode.on_sunk
        ) as feedback,
        open_stream(settings, TURNS, stores, fold_turns, claims[1], turn_sealer) as turns,
    ):
        current_thumbs = thumbs.Thumbs(engine, mode.pending_thumbs, settings.account_age())
        figures = experiments.Experiments(engine, current_thumbs)
        versions = VersionFeedbacks(engine, current_thumbs, settings.training_consent_default)
        servicer = FeedbackLogServicer(
            settings.principal_key.get_secret_value(),
            feedback.group,
            turns.group,
            stores.ledger,
            CurrentFeedback(
                current_thumbs,
                remarks.Remarks(engine, mode.pending_remarks, keys, codec.decode_words),
            ),
            figures,
            versions,
            Principals(keys, consents, erasures, mode.on_erased),
        )
        background = [
            *_periodic_deletions(settings, engine, claims),
            refresh_periodically(figures, exported),
            refresh_rates_periodically(figures, versions, rates),
            update_metrics_periodically(erasures),
            catch_up_periodically(partial(_catch_up, stores)),
        ]
        if registry:
            background.append(
                report_periodically(registry, lambda: [feedback.log_state(), turns.log_state()])
            )
        compactor = compaction_of(settings, engine, stores)
        compaction = run_compaction(compactor, settings.compaction_minutes * 60)
        async with _background_tasks(closing, *background), compaction:
            yield [
                Registration(NAME, add_FeedbackLogServiceServicer_to_server, servicer, batch=BATCH)
            ]
    if registry:
        require_empty(feedback.log_state(), turns.log_state())


def _periodic_deletions(
    settings: FeedbackSettings, engine: Engine, claims: Sequence[Claims]
) -> list[Coroutine[None, None, None]]:
    """Return coroutines for deleting expired claims, payloads and rows until cancelled."""
    work = [
        *(sweep_hourly(each, settings.claim_days * DAY_SECONDS) for each in claims),
        clear_payloads_hourly(engine, settings.dead_letter_days * DAY_SECONDS),
    ]
    if settings.keep_days:
        work.append(expiry.expire_hourly(engine, settings.keep_days * DAY_SECONDS))
    return work


def _catch_up(stores: Stores) -> None:
    current_feedback.catch_up(stores.ledger, stores.objects, Stream.FEEDBACK)
    experiments.catch_up(stores.ledger, stores.objects, Stream.TURNS)
    answers.catch_up(stores.ledger, stores.objects, Stream.TURNS)


@dataclass(frozen=True)
class ReplicaMode:
    """Differences between a single replica and several replicas: claims and pending feedback."""

    claims: tuple[Claims, Claims]
    pending_thumbs: thumbs.PendingThumbs
    pending_remarks: remarks.PendingRemarks
    on_stored: Callable[[Sequence[Record]], None]
    on_sunk: Callable[[int], None]
    on_erased: Callable[[str], None]


def _single_replica() -> ReplicaMode:
    pending = current_feedback.PendingFeedback(codec.decoded_feedback)
    return ReplicaMode(
        (NoClaims(), NoClaims()),
        pending.thumbs,
        pending.remarks,
        pending.add,
        pending.trim,
        pending.forget,
    )


def _many_replicas(engine: Engine) -> ReplicaMode:
    def change_of(entry: Entry) -> thumbs.Change | None:
        return thumbs.change_of(codec.decode_feedback(Record(0, 0, entry)), 0)

    feedback = PostgresClaims(engine, Stream.FEEDBACK, change_of)
    turns = PostgresClaims(engine, Stream.TURNS, lambda entry: None)
    return ReplicaMode(
        (feedback, turns), feedback, remarks.NoPendingRemarks(), feedback.observe, _no_op, _no_op
    )


def _no_op(_argument: object) -> None:
    """Ignore the argument (callback for modes without pending feedback in memory)."""


@asynccontextmanager
async def _background_tasks(
    closing: AsyncExitStack, *work: Coroutine[None, None, None]
) -> AsyncIterator[None]:
    """Run coroutines as tasks until the block ends, then cancel them; `closing` waits for them.

    Their threads may work for minutes. The streams have little time and are closed before. The
    database is closed afterwards, because a closed pool leaves connections of threads open.
    """
    tasks = [asyncio.create_task(each) for each in work]
    closing.push_async_callback(asyncio.wait, tasks)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


def main() -> int:
    """Run the command of the command line and return its exit status."""
    parser = ArgumentParser(prog="python -m services.feedback", description=__doc__)
    add_commands(parser)
    options, settings = parser.parse_args(), load_settings(FeedbackSettings)
    try:
        if options.command not in {None, "serve"}:
            return run_command(settings, options)
        exported, rates = ExperimentMetrics(), RateMetrics()
        REGISTRY.register(exported)
        REGISTRY.register(rates)
        wire = partial(wiring, exported=exported, rates=rates)
        run_service("feedback", settings, wire, CALLERS)
        return 0
    except ObjectStoreError as error:
        print(f"object store: {error}", file=sys.stderr)
        return 1
    except (MasterKeyError, FingerprintKeyMissingError) as error:
        print(f"{error.field}: {error}", file=sys.stderr)
        return 1
    except EventsWaitingError as error:
        print(f"spool_directory: {error}", file=sys.stderr)
        return EXIT_EVENTS_WAITING


if __name__ == "__main__":
    sys.exit(main())
