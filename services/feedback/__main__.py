"""`python -m services.feedback` serves. Beside it: `migrate` moves Postgres' schema, `topics` and
`bucket` make what servers must have, `orphans` and `compact` tend the store, and `audit` proves
that nothing is lost or twice.
"""

import asyncio
import sys
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from prometheus_client import REGISTRY
from sqlalchemy import Engine
from thumbwheel.feedback.v1.events_pb2 import FeedbackEvent, TurnEvent
from thumbwheel.feedback.v1.feedback_pb2_grpc import add_FeedbackLogServiceServicer_to_server

from services.chassis.server import Registration, run_service
from services.chassis.settings import load_settings
from services.feedback import codec
from services.feedback.access import CALLERS
from services.feedback.commands import add_commands, compaction_of, run_command
from services.feedback.compaction.schedule import compacting
from services.feedback.database import open_database
from services.feedback.events import Stream
from services.feedback.lake.catalogue import Catalogue
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStoreError
from services.feedback.lake.place import tried_store
from services.feedback.principals.consents import Consents
from services.feedback.principals.data_keys import DataKeys
from services.feedback.principals.erasure_metrics import keep_counting
from services.feedback.principals.erasures import Erasures
from services.feedback.principals.master_key import MasterKey, MasterKeyError
from services.feedback.principals.servicer import Principals
from services.feedback.servicer import FeedbackLogServicer
from services.feedback.settings import FeedbackSettings
from services.feedback.sink.dead_letters import empty_hourly
from services.feedback.spool.accept import Claims, NoClaims
from services.feedback.spool.claims import PostgresClaims, sweep_hourly
from services.feedback.spool.frames import Entry, Record
from services.feedback.spool.sealer import Sealer, late_turns
from services.feedback.standing import experiments, finished, remarks, said, thumbs
from services.feedback.standing.experiment_metrics import ExperimentMetrics, keep_looking
from services.feedback.standing.overlay import Overlay
from services.feedback.standing.projection import caught_up_often
from services.feedback.streams import FEEDBACK, TURNS, Accepting, Stores, open_stream

NAME = "thumbwheel.feedback.v1.FeedbackLogService"
DAY_SECONDS = 86_400.0
# Session's relay and training ask again by themselves; a thumb waits for its ack.
BATCH = frozenset({"AppendTurns", "ListSegments", "CountThumbs", "GetDataKeys", "ListErasures"})


@asynccontextmanager
async def wiring(
    settings: FeedbackSettings, shown: ExperimentMetrics | None = None
) -> AsyncIterator[Sequence[Registration]]:
    """Open stores and both streams; close them in reverse. `shown`: where Prometheus finds the
    experiments.
    """
    engine, master = (
        open_database(settings.database_url),
        MasterKey(settings.master_key.get_secret_value()),
    )
    keys = DataKeys(engine, master)
    keys.check()
    erasures = Erasures(engine)
    stores = Stores(Ledger(engine), await asyncio.to_thread(tried_store, settings))
    _catch_up(stores)
    ways = _one_process() if engine.dialect.name == "sqlite" else _many(engine)
    spoken = Accepting(
        ways.claims[0], Sealer(FeedbackEvent, codec.take_feedback_texts, keys, master)
    )
    late = partial(late_turns, erasures.last)
    done = Accepting(
        ways.claims[1], Sealer(TurnEvent, codec.take_turn_texts, keys, master, late=late)
    )
    async with (
        open_stream(
            settings, FEEDBACK, stores, said.fold, spoken, ways.on_stored, ways.on_committed
        ) as feedback,
        open_stream(settings, TURNS, stores, finished.fold, done, _nothing, _nothing) as turns,
    ):
        key, pending = (
            settings.principal_key.get_secret_value(),
            thumbs.Thumbs(engine, ways.pending),
        )
        figures = experiments.Experiments(engine, pending)
        consents = Consents(engine, settings.training_consent_default)
        principals = Principals(keys, consents, erasures, ways.on_erased)
        words = remarks.Remarks(engine, ways.words, keys, codec.words_from)
        standing = said.Said(pending, words)
        servicer = FeedbackLogServicer(
            key, feedback, turns, Catalogue(stores.ledger), standing, figures, principals
        )
        beside = _beside(
            *(sweep_hourly(claims, settings.claim_days * DAY_SECONDS) for claims in ways.claims),
            empty_hourly(engine, settings.dead_letter_days * DAY_SECONDS),
            keep_looking(figures, shown or ExperimentMetrics()),
            keep_counting(erasures),
            caught_up_often(partial(_catch_up, stores)),
            *(
                [remarks.expire_hourly(engine, settings.keep_days * DAY_SECONDS)]
                if settings.keep_days
                else []
            ),
        )
        compaction = compacting(
            compaction_of(settings, engine, stores), settings.compaction_minutes * 60
        )
        async with beside, compaction:
            yield [
                Registration(NAME, add_FeedbackLogServiceServicer_to_server, servicer, batch=BATCH)
            ]
    engine.dispose()


def _catch_up(stores: Stores) -> None:
    said.catch_up(stores.ledger, stores.objects, Stream.FEEDBACK)
    experiments.catch_up(stores.ledger, stores.objects, Stream.TURNS)


@dataclass(frozen=True)
class Ways:
    """What differs between one process and many: who came first, and where thumbs and words are
    that no segment has yet.
    """

    claims: tuple[Claims, Claims]
    pending: thumbs.Pending
    words: remarks.Pending
    on_stored: Callable[[Sequence[Record]], None]
    on_committed: Callable[[int], None]
    on_erased: Callable[[str], None]


def _one_process() -> Ways:
    rated, worded = Overlay(thumbs.change_of), Overlay(remarks.change_of)

    def take(records: Sequence[Record]) -> None:
        said = list(codec.decoded_feedback(records))
        rated.take(said)
        worded.take(said)

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


def _serve(settings: FeedbackSettings) -> int:
    shown = ExperimentMetrics()
    REGISTRY.register(shown)
    run_service("feedback", settings, partial(wiring, shown=shown), CALLERS)
    return 0


def main() -> int:
    """Run a command; its exit status."""
    parser = ArgumentParser(prog="python -m services.feedback", description=__doc__)
    add_commands(parser)
    options, settings = parser.parse_args(), load_settings(FeedbackSettings)
    try:
        return (
            _serve(settings)
            if options.command in {None, "serve"}
            else run_command(settings, options)
        )
    except ObjectStoreError as error:
        print(f"object store: {error}", file=sys.stderr)
        return 1
    except MasterKeyError as error:
        print(f"master_key: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
