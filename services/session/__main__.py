"""Command line of the session service; without a command it serves."""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from thumbwheel.session.v1 import session_pb2_grpc

from services.chassis.channel import open_channel
from services.chassis.errors import SchemaRevisionError, UnavailableError
from services.chassis.server import Registration, run_service
from services.chassis.settings import load_settings, program
from services.contracts.wire import now_us
from services.session.access import CALLERS
from services.session.commands import add_commands, database_limits, run_command
from services.session.context import TokenizerMissingError, load_counter
from services.session.conversations import ConversationLimits, Conversations, Erasure
from services.session.relay import FeedbackTurnLog, Relay, RelayIntervals, TurnRecorder
from services.session.servicer import SERVICE_NAME, SessionServicer
from services.session.settings import SessionSettings
from services.session.store.outbox import Lease, Outbox
from services.session.store.schema import open_database
from services.session.store.store import Store
from services.session.turns import ContextRules, TurnBeginner, TurnFinisher


@asynccontextmanager
async def wiring(settings: SessionSettings) -> AsyncIterator[Sequence[Registration]]:
    """Open the database and start the relay; the tokenizer is loaded before calls are served."""
    counter = await load_counter(settings.tokenizer_file)
    async with (
        open_database(settings.database_url, database_limits(settings)) as database,
        open_channel(
            settings.feedback_target,
            feedback_pb2.DESCRIPTOR,
            peer="feedback",
            tls=settings.tls_files(),
            signer=settings.token_signer("session"),
        ) as feedback,
    ):
        turn_log = FeedbackTurnLog(
            feedback_pb2_grpc.FeedbackLogServiceStub(feedback).AppendTurns,
            settings.relay_timeout_seconds,
        )
        relay = Relay(
            Outbox(database, Lease(settings.relay_lease_seconds)),
            turn_log,
            relay_intervals(settings),
        )
        store = Store(database)
        recorder = TurnRecorder(settings.principal_key.get_secret_value())
        rules = ContextRules(
            settings.context_tokens,
            settings.reply_tokens,
            settings.template_tokens,
            settings.message_overhead_tokens,
        )
        servicer = SessionServicer(
            TurnBeginner(
                store,
                counter,
                rules,
                ConversationLimits(
                    settings.max_conversations_per_user, settings.max_conversations_per_tenant
                ),
                now_us,
            ),
            TurnFinisher(store, counter, recorder, now_us, relay.wake),
            Conversations(store, settings.max_turn_seconds, now_us),
            Erasure(store, recorder, now_us, relay.wake),
        )
        relaying = asyncio.create_task(relay.run())
        try:
            yield [
                Registration(
                    SERVICE_NAME, session_pb2_grpc.add_SessionServiceServicer_to_server, servicer
                )
            ]
        finally:
            relaying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await relaying


def relay_intervals(settings: SessionSettings) -> RelayIntervals:
    """Return the intervals of the relay; the lease is renewed three times within its duration."""
    return RelayIntervals(
        settings.relay_poll_seconds,
        settings.relay_linger_seconds,
        settings.relay_max_backoff_seconds,
        settings.relay_lease_seconds / 3,
    )


def main() -> None:
    """Serve until SIGTERM, or run a command."""
    parser = argparse.ArgumentParser(prog=program("session"), description=__doc__)
    add_commands(parser)
    options = parser.parse_args()
    settings = load_settings(SessionSettings)
    try:
        if options.command in {None, "serve"}:
            run_service("session", settings, wiring, CALLERS)
        else:
            sys.exit(asyncio.run(run_command(options, settings)))
    except (TokenizerMissingError, SchemaRevisionError, UnavailableError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
