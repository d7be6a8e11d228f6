"""Runs the gateway, or the commands `keys` and `migrate`. Constructs everything, decides nothing."""

import argparse
import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.protobuf.descriptor import FileDescriptor
from prometheus_client import REGISTRY
from starlette.applications import Starlette
from thumbwheel.chat.v1 import chat_pb2, chat_pb2_grpc
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc
from thumbwheel.guardrail.v1 import guardrail_pb2, guardrail_pb2_grpc
from thumbwheel.session.v1 import session_pb2, session_pb2_grpc

from services.chassis.admission import Admission
from services.chassis.channel import open_channel
from services.chassis.errors import UnavailableError
from services.chassis.server import Registration, run_service
from services.chassis.settings import load_settings
from services.chassis.telemetry import fields, tracer
from services.gateway.access import guarded
from services.gateway.alone import Alone
from services.gateway.answer_cache import AnswerCache, Answers, LocalAnswers
from services.gateway.bearer import Bearers, Tokens
from services.gateway.chat import Chat, Peers
from services.gateway.database import DatabaseBehindError, open_database
from services.gateway.feedback import Feedback
from services.gateway.generation import Patience
from services.gateway.http.account import Account
from services.gateway.http.app import make_app
from services.gateway.http.door import Door
from services.gateway.http.loop_files import LoopFiles
from services.gateway.http.openai import OpenAiApi
from services.gateway.http.page import PageApi
from services.gateway.http.server import serving_http
from services.gateway.key_commands import (
    add_key_commands,
    add_migrate_command,
    run_key_command,
    run_migrate_command,
)
from services.gateway.key_store import SqlKeyStore
from services.gateway.keys import OWNER, Keys, owner_secret, stored
from services.gateway.loop_metrics import LoopMetrics
from services.gateway.loops import looping
from services.gateway.own_data import OwnData
from services.gateway.peers.conversations import ConversationsPeer
from services.gateway.peers.enhancer import EnhancerPeer
from services.gateway.peers.feedback import FeedbackPeer
from services.gateway.peers.generator import GeneratorPeer
from services.gateway.peers.guardrail import GuardrailPeer
from services.gateway.peers.session import SessionPeer
from services.gateway.quotas import Quotas
from services.gateway.servicer import ChatServicer, FeedbackServicer
from services.gateway.settings import DatabaseSettings, GatewaySettings
from services.gateway.shared.answers import ValkeyAnswers
from services.gateway.shared.link import Link, open_link
from services.gateway.shared.quotas import ValkeyBook
from services.gateway.shared.seal import Seal
from services.gateway.shared.turns import SharingPace, shared_turns
from services.gateway.storing import Storing
from services.gateway.turn_trace import traced
from services.gateway.turns import Neighbours, TurnLimits, Turns
from services.gateway.writing import Pace

log = logging.getLogger(__name__)

# When a person whose turn was refused may come back.
RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Doors:
    """The gRPC half, to be served by the chassis, and where the HTTP half serves already."""

    registrations: Sequence[Registration]
    http: Starlette
    http_port: int


@asynccontextmanager
async def wiring(settings: GatewaySettings) -> AsyncIterator[Sequence[Registration]]:
    """As the chassis wants it."""
    async with opened(settings) as doors:
        log.info("serving http", extra=fields(port=doors.http_port))
        REGISTRY.register(LoopMetrics(settings.loop_directory))
        yield doors.registrations


@asynccontextmanager
async def opened(settings: GatewaySettings) -> AsyncIterator[Doors]:
    """Construct everything; HTTP serves within the block."""
    async with AsyncExitStack() as stack:
        bearers = Bearers(await _keys(settings, stack), await _tokens(settings, stack))
        peers = await _Peers.open(settings, stack)
        link = await _valkey(settings, stack)
        cache = AnswerCache(_answers(settings, link), peers.generator)
        chat_path = _chat(settings, peers, cache)
        turns = Turns(
            traced(chat_path.run, tracer()),
            _limits(settings),
            await _neighbours(settings, link, stack),
            Admission("turns", settings.sure_turns, settings.max_turns, RETRY_SECONDS),
        )
        chat = ChatServicer(turns, peers.session, peers.conversations)
        said = FeedbackServicer(
            Feedback(peers.session, peers.feedback, settings.principal_key.get_secret_value()),
            OwnData(turns, peers.session, peers.feedback, cache),
        )
        door = Door(bearers, settings.max_rpc_seconds)
        routes = [
            *OpenAiApi(turns, peers.generator).routes(door),
            *PageApi(chat, said, peers.generator, peers.feedback).routes(door),
            *Account().routes(door),
            *LoopFiles(settings.loop_directory).routes(door),
        ]
        app = make_app(door, routes, _page(settings), with_metrics=settings.http_metrics)
        port = await stack.enter_async_context(
            serving_http(app, settings.host, settings.http_port, settings.max_write_seconds)
        )
        # Closed before HTTP is: the turns' ends are what their readers wait for.
        stack.push_async_callback(turns.close, settings.http_drain_seconds)
        yield Doors(_registrations(chat, said, bearers, turns.hand_over), app, port)


async def _valkey(settings: GatewaySettings, stack: AsyncExitStack) -> Link | None:
    """The way to what gateways share; None: this process is the only one."""
    if not settings.valkey_url:
        return None
    return await stack.enter_async_context(
        open_link(settings.valkey_url, deadline_seconds=settings.valkey_seconds)
    )


def _answers(settings: GatewaySettings, link: Link | None) -> Answers | None:
    if not settings.answer_cache_seconds:
        return None
    if link is None:
        return LocalAnswers(settings.answer_cache_seconds, settings.answer_cache_entries)
    seal = Seal(settings.valkey_secret.get_secret_value())
    return ValkeyAnswers(link, seal, settings.answer_cache_seconds, settings.answer_cache_entries)


async def _neighbours(
    settings: GatewaySettings, link: Link | None, stack: AsyncExitStack
) -> Neighbours:
    """With Valkey other gateways know our turns and all share the quotas; without it this process
    is alone.
    """
    rules = settings.quota_rules()
    if link is None:
        alone = Alone()
        return Neighbours(alone, alone, alone, Quotas(rules))
    pace = SharingPace(
        keep_seconds=settings.keep_seconds,
        lease_seconds=settings.turn_lease_seconds,
        linger_seconds=settings.share_linger_seconds,
        look_seconds=settings.share_look_seconds,
    )
    seal = Seal(settings.valkey_secret.get_secret_value())
    turns, erasures = await stack.enter_async_context(shared_turns(link, seal, pace))
    book = ValkeyBook(link, settings.quota_lease_seconds)
    quotas = Quotas(rules, book, settings.quota_when_away, settings.quota_lease_seconds)
    await stack.enter_async_context(looping(quotas.serve))
    # Before the loop ends: what the last turns have used.
    stack.push_async_callback(quotas.flush)
    return Neighbours(turns, turns, erasures, quotas)


async def _keys(settings: GatewaySettings, stack: AsyncExitStack) -> Keys:
    database = open_database(
        settings.database_url,
        wait_seconds=settings.database_seconds,
        connections=settings.database_connections,
    )
    store = SqlKeyStore(await stack.enter_async_context(database))
    if settings.owner_key_file:
        await store.add(stored(owner_secret(settings.owner_key_file), OWNER))
    return await stack.enter_async_context(Keys(store, settings.key_cache_seconds))


async def _tokens(settings: GatewaySettings, stack: AsyncExitStack) -> Tokens | None:
    if not settings.oidc_issuers:
        return None
    # Half a second of a processor, which a gateway without issuers does not spend at its start.
    import aiohttp

    from services.gateway.oidc import Oidc
    from services.gateway.peers.issuer import IssuerPeer
    from services.gateway.signing_keys import KeyAges, SigningKeys

    http = await stack.enter_async_context(aiohttp.ClientSession())
    ages = KeyAges(
        settings.oidc_refresh_seconds, settings.oidc_stale_seconds, settings.oidc_retry_seconds
    )
    issuers = {}
    for issuer in (entry.rules() for entry in settings.oidc_issuers):
        keys = SigningKeys(
            issuer.url, IssuerPeer(http, issuer.url, settings.oidc_fetch_seconds).signing_keys, ages
        )
        stack.push_async_callback(keys.close)
        issuers[issuer.url] = (issuer, keys)
    return Oidc(issuers, settings.oidc_leeway_seconds)


@dataclass(frozen=True)
class _Peers:
    """Clients of the services behind the door."""

    guardrail: GuardrailPeer
    enhancer: EnhancerPeer
    session: SessionPeer
    generator: GeneratorPeer
    feedback: FeedbackPeer
    conversations: ConversationsPeer

    @classmethod
    async def open(cls, settings: GatewaySettings, stack: AsyncExitStack) -> "_Peers":
        """One channel a service, open for the life of the process."""

        tls = settings.tls_files()

        async def channel(peer: str, target: str, proto: FileDescriptor) -> grpc.aio.Channel:
            return await stack.enter_async_context(open_channel(target, proto, peer=peer, tls=tls))

        session = await channel("session", settings.session_target, session_pb2.DESCRIPTOR)
        guardrail = await channel("guardrail", settings.guardrail_target, guardrail_pb2.DESCRIPTOR)
        enhancer = await channel("enhancer", settings.enhancer_target, enhancer_pb2.DESCRIPTOR)
        generator = await channel("generator", settings.generator_target, generator_pb2.DESCRIPTOR)
        log_channel = await channel("feedback", settings.feedback_target, feedback_pb2.DESCRIPTOR)
        sessions = session_pb2_grpc.SessionServiceStub(session)
        feedback = FeedbackPeer(
            feedback_pb2_grpc.FeedbackLogServiceStub(log_channel), settings.feedback_seconds
        )
        return cls(
            GuardrailPeer(
                guardrail_pb2_grpc.GuardrailServiceStub(guardrail), settings.guard_seconds
            ),
            EnhancerPeer(
                enhancer_pb2_grpc.EnhancerServiceStub(enhancer), settings.enhancer_seconds
            ),
            SessionPeer(sessions, settings.session_seconds),
            GeneratorPeer(
                generator_pb2_grpc.GeneratorServiceStub(generator),
                generator_pb2_grpc.RolloutServiceStub(generator),
                settings.turn_seconds,
            ),
            feedback,
            ConversationsPeer(sessions, feedback, settings.session_seconds),
        )


def _page(settings: GatewaySettings) -> Path | None:
    """The built page, if it is there: without it the APIs still serve."""
    if settings.page_directory and not settings.page_directory.is_dir():
        log.warning("page not built", extra=fields(directory=str(settings.page_directory)))
        return None
    return settings.page_directory


def _chat(settings: GatewaySettings, peers: _Peers, cache: AnswerCache) -> Chat:
    patience = Patience(settings.first_text_seconds, settings.idle_seconds)
    return Chat(
        Peers(peers.enhancer, peers.guardrail, peers.session, peers.generator),
        Pace(settings.coalesce_seconds, patience),
        Storing(peers.session, settings.finish_seconds),
        cache,
    )


def _limits(settings: GatewaySettings) -> TurnLimits:
    return TurnLimits(
        turn_seconds=settings.turn_seconds,
        keep_seconds=settings.keep_seconds,
        max_kept_characters=settings.max_kept_characters,
    )


def _registrations(
    chat: ChatServicer, said: FeedbackServicer, bearers: Bearers, on_drain: Callable[[], None]
) -> list[Registration]:
    chat_service = chat_pb2.DESCRIPTOR.services_by_name["ChatService"]
    feedback_service = feedback_pb2.DESCRIPTOR.services_by_name["FeedbackService"]
    return [
        Registration(
            chat_service.full_name,
            chat_pb2_grpc.add_ChatServiceServicer_to_server,
            guarded(chat_service, chat, bearers),
            on_drain,
            # Turns have an admission of their own, whichever door they come through; a cancel takes
            # load away.
            unlimited=frozenset({"SendMessage", "ResumeMessage", "CancelMessage"}),
        ),
        Registration(
            feedback_service.full_name,
            feedback_pb2_grpc.add_FeedbackServiceServicer_to_server,
            guarded(feedback_service, said, bearers),
        ),
    ]


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m services.gateway", description=__doc__)
    commands = parser.add_subparsers(dest="group")
    database_url = load_settings(DatabaseSettings).database_url
    add_key_commands(commands.add_parser("keys", help="API keys"), database_url)
    add_migrate_command(
        commands.add_parser("migrate", help="bring the database up to date"), database_url
    )
    options = parser.parse_args()
    try:
        match options.group:
            case "keys":
                return asyncio.run(run_key_command(options))
            case "migrate":
                return asyncio.run(run_migrate_command(options))
            case _:
                run_service("gateway", load_settings(GatewaySettings), wiring)
                return 0
    except (DatabaseBehindError, UnavailableError) as error:
        # Of the cause its kind alone: what it says may quote the URL.
        sys.exit(f"{error} ({type(error.__cause__).__name__})" if error.__cause__ else str(error))


if __name__ == "__main__":
    sys.exit(main())
