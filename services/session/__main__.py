"""Wires the session service: database, tokenizer, turns, outbox, servicer."""

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from thumbwheel.feedback.v1 import feedback_pb2
from thumbwheel.session.v1 import session_pb2_grpc

from services.chassis.channel import open_channel
from services.chassis.server import Registration, run_service
from services.chassis.settings import load_settings
from services.session.conversation import Conversations
from services.session.database import open_database
from services.session.identifiers import IdMint
from services.session.outbox import Outbox, Relay, RelayPace
from services.session.servicer import SERVICE_NAME, SessionServicer
from services.session.settings import SessionSettings
from services.session.store import Store
from services.session.tokens import TokenizerMissingError, load_counter
from services.session.turn_begin import ContextRules, TurnBeginner
from services.session.turn_finish import TurnFinisher
from services.session.turn_log import FeedbackTurnLog
from services.session.turn_record import TurnRecorder
from services.session.wire import encode_turn_record


@asynccontextmanager
async def wiring(settings: SessionSettings) -> AsyncIterator[Sequence[Registration]]:
    """Open the store and the relay; the tokenizer is loaded before anybody is served."""
    counter = await load_counter(settings.tokenizer_file)
    async with (
        open_database(settings.database_url, settings.connections) as database,
        open_channel(settings.feedback_target, feedback_pb2.DESCRIPTOR) as feedback,
    ):
        turn_log = FeedbackTurnLog(feedback, settings.relay_timeout_seconds)
        pace = RelayPace(settings.relay_poll_seconds, settings.relay_linger_seconds, settings.relay_max_backoff_seconds)
        relay = Relay(Outbox(database), turn_log, pace)
        store = Store(database)
        recorder = TurnRecorder(settings.principal_key.get_secret_value(), encode_turn_record)
        rules = ContextRules(
            settings.context_tokens, settings.reply_tokens, settings.template_tokens, settings.message_overhead_tokens
        )
        servicer = SessionServicer(
            TurnBeginner(store, counter, IdMint(), rules, now_us),
            TurnFinisher(store, counter, recorder, now_us, relay.wake),
            Conversations(store, recorder, settings.max_turn_seconds, now_us, relay.wake),
        )
        relaying = asyncio.create_task(relay.run())
        try:
            yield [Registration(SERVICE_NAME, session_pb2_grpc.add_SessionServiceServicer_to_server, servicer)]
        finally:
            relaying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await relaying


def now_us() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1_000


def main() -> None:
    """Run until SIGTERM."""
    try:
        run_service("session", load_settings(SessionSettings), wiring)
    except TokenizerMissingError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
