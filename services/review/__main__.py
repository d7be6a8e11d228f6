"""Command line of the review service; without a command it serves."""

import argparse
import asyncio
import random
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
from google.protobuf.descriptor import FileDescriptor
from sqlalchemy.ext.asyncio import AsyncEngine
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc
from thumbwheel.review.v1 import appeal_pb2_grpc, arena_pb2_grpc, review_pb2_grpc
from thumbwheel.session.v1 import session_pb2, session_pb2_grpc

from services.chassis.channel import open_channel
from services.chassis.database.url import redacted_url
from services.chassis.errors import SchemaRevisionError, UnavailableError
from services.chassis.server import Registration, run_service
from services.chassis.settings import load_settings, program
from services.contracts.wire import now_us
from services.review.access import CALLERS
from services.review.arena.battles import BattleLimits, Battles
from services.review.arena.labels import Label, Labels
from services.review.arena.leaderboard import Leaderboards
from services.review.arena.participants import Participants
from services.review.arena.screening import Screening
from services.review.arena.votes import VoteRules, Votes
from services.review.commands import add_commands, run_command
from services.review.erasure import Erasures
from services.review.peers import FeedbackPeer, GeneratorPeer, SessionPeer
from services.review.periodic import Periodic
from services.review.relay import Relay, RelayIntervals
from services.review.reviewing.agreement import Agreements
from services.review.reviewing.appeals import AppealLimits, Appeals
from services.review.reviewing.disagreement import RatingRules
from services.review.reviewing.items import Items
from services.review.reviewing.reviews import Reviews
from services.review.servicer import (
    APPEALS_NAME,
    ARENA_NAME,
    ITEMS_NAME,
    MODELS_NAME,
    REVIEWS_NAME,
    AppealServicer,
    ArenaServicer,
    BattleModelServicer,
    ReviewItemServicer,
    ReviewServicer,
)
from services.review.settings import ReviewSettings
from services.review.store.accounts import SqlAccountStore
from services.review.store.appeals import SqlAppealStore
from services.review.store.battles import SqlBattleStore
from services.review.store.database import migrate, open_database
from services.review.store.erasures import SqlErasureStore
from services.review.store.items import SqlItemStore
from services.review.store.outbox import SqlOutbox
from services.review.store.reviews import SqlReviewStore
from services.review.store.votes import SqlVoteSource

# Longest wait for the relay's last events. Events that remain are relayed after the next start.
SHUTDOWN_SECONDS = 5.0


@asynccontextmanager
async def wiring(settings: ReviewSettings) -> AsyncIterator[Sequence[Registration]]:
    """Open the database and the channels, and start the relay."""
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(
            open_database(
                settings.database_url,
                wait_seconds=settings.database_wait_seconds,
                connections=settings.database_connections,
            )
        )

        session, generator, feedback = await open_peers(stack, settings)
        relay = Relay(SqlOutbox(engine), feedback, relay_intervals(settings), now_us)
        store = SqlBattleStore(engine)
        participants = Participants(generator, settings.extra_models, settings.excluded_models)
        limits = BattleLimits(settings.battles_per_hour, settings.votes_per_day)
        # Users must not be able to predict the order of the models.
        battles = Battles(store, participants, limits, random.SystemRandom())
        labels = Labels(own_labels(settings), generator)
        votes = Votes(battles, store, session, labels, vote_rules(settings), relay.wake)
        leaderboards = Leaderboards(
            SqlVoteSource(engine), labels, settings.leaderboard_seconds, now_us
        )
        key = settings.principal_key.get_secret_value()
        screening = Periodic(
            "screening",
            settings.screening_seconds,
            Screening(SqlVoteSource(engine), SqlAccountStore(engine)).screen_all,
        )
        erasures = Periodic(
            "erasures",
            settings.erasure_seconds,
            Erasures(feedback, SqlErasureStore(engine)).apply,
        )
        reviewing, expiry = review_servicers(settings, engine, relay, session)
        tasks = (relay, screening, erasures, expiry)
        running = {asyncio.create_task(task.run()) for task in tasks}
        try:
            yield [
                Registration(
                    ARENA_NAME,
                    arena_pb2_grpc.add_ArenaServiceServicer_to_server,
                    ArenaServicer(key, battles, votes, leaderboards),
                ),
                Registration(
                    MODELS_NAME,
                    arena_pb2_grpc.add_BattleModelServiceServicer_to_server,
                    BattleModelServicer(key, battles),
                ),
                *reviewing,
            ]
        finally:
            for task in tasks:
                task.stop()
            # A transaction is not cancelled, because its connection would stay open.
            _, late = await asyncio.wait(running, timeout=SHUTDOWN_SECONDS)
            for one in late:
                one.cancel()
            await asyncio.gather(*late, return_exceptions=True)


def review_servicers(
    settings: ReviewSettings, engine: AsyncEngine, relay: Relay, session: SessionPeer
) -> tuple[Sequence[Registration], Periodic]:
    """Create the servicers of appeals, reviews and items, and the removal of old items."""
    store = SqlReviewStore(engine)
    items = Items(SqlItemStore(engine), settings.item_days)
    key = settings.principal_key.get_secret_value()
    limits = AppealLimits(settings.user_appeals_per_day, settings.tenant_appeals_per_day)
    appeals = AppealServicer(key, Appeals(SqlAppealStore(engine), session, limits))
    reviews = ReviewServicer(
        key,
        Reviews(store, rating_rules(settings), relay.wake),
        Agreements(store, settings.raters),
    )
    registrations = [
        Registration(APPEALS_NAME, appeal_pb2_grpc.add_AppealServiceServicer_to_server, appeals),
        Registration(REVIEWS_NAME, review_pb2_grpc.add_ReviewServiceServicer_to_server, reviews),
        Registration(
            ITEMS_NAME,
            review_pb2_grpc.add_ReviewItemServiceServicer_to_server,
            ReviewItemServicer(items, SqlAccountStore(engine)),
        ),
    ]
    return registrations, Periodic("expiry", settings.expiry_seconds, items.expire)


async def open_peers(
    stack: AsyncExitStack, settings: ReviewSettings
) -> tuple[SessionPeer, GeneratorPeer, FeedbackPeer]:
    """Open the channels to the called services; the stack closes them."""

    async def channel(peer: str, target: str, proto: FileDescriptor) -> grpc.aio.Channel:
        opened = open_channel(
            target,
            proto,
            peer=peer,
            tls=settings.tls_files(),
            signer=settings.token_signer("review"),
        )
        return await stack.enter_async_context(opened)

    session = await channel("session", settings.session_target, session_pb2.DESCRIPTOR)
    generator = await channel("generator", settings.generator_target, generator_pb2.DESCRIPTOR)
    feedback = await channel("feedback", settings.feedback_target, feedback_pb2.DESCRIPTOR)
    return (
        SessionPeer(session_pb2_grpc.SessionServiceStub(session), settings.peer_seconds),
        GeneratorPeer(generator_pb2_grpc.RolloutServiceStub(generator), settings.peer_seconds),
        FeedbackPeer(
            feedback_pb2_grpc.FeedbackLogServiceStub(feedback), settings.relay_timeout_seconds
        ),
    )


def relay_intervals(settings: ReviewSettings) -> RelayIntervals:
    """Return the intervals of the relay."""
    return RelayIntervals(
        settings.relay_poll_seconds,
        settings.relay_max_backoff_seconds,
        settings.relay_refused_seconds,
    )


def own_labels(settings: ReviewSettings) -> Mapping[str, Label]:
    """Return developer and licence by model, as the settings name them."""
    return {model: Label(**label.model_dump()) for model, label in settings.models.items()}


def vote_rules(settings: ReviewSettings) -> VoteRules:
    """Return the rules for votes that do not count."""
    return VoteRules(settings.votes_per_day, settings.least_vote_seconds, settings.family_names)


def rating_rules(settings: ReviewSettings) -> RatingRules:
    """Return the rules for reviews and disagreements."""
    return RatingRules(
        settings.raters,
        settings.further_raters,
        settings.least_difference,
        settings.resolve_own,
    )


def main() -> None:
    """Serve until SIGTERM, or run a command."""
    parser = argparse.ArgumentParser(prog=program("review"), description=__doc__)
    add_commands(parser)
    options = parser.parse_args()
    settings = load_settings(ReviewSettings)
    try:
        if options.command == "migrate":
            before, after = asyncio.run(migrate(settings.database_url))
            was = "" if before == after else f", was {before or 'without a revision'}"
            print(f"{redacted_url(settings.database_url)}: at {after}{was}")
        elif options.command in {None, "serve"}:
            run_service("review", settings, wiring, CALLERS)
        else:
            sys.exit(asyncio.run(run_command(options, settings)))
    except (SchemaRevisionError, UnavailableError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
