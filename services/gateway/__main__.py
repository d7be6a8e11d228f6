"""Runs the gateway, or with `keys` the commands that make and revoke API keys. Constructs everything, decides nothing."""

import argparse
import asyncio
import logging
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
from thumbwheel.chat.v1 import chat_pb2, chat_pb2_grpc
from thumbwheel.enhancer.v1 import enhancer_pb2_grpc
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from thumbwheel.generator.v1 import generator_pb2_grpc
from thumbwheel.guardrail.v1 import guardrail_pb2_grpc
from thumbwheel.session.v1 import session_pb2_grpc

from services.chassis.channel import open_channel
from services.chassis.server import Registration, run_service
from services.chassis.settings import load_settings
from services.chassis.telemetry import fields
from services.gateway.access import guarded
from services.gateway.alone import Alone
from services.gateway.answer_cache import AnswerCache, Answers, LocalAnswers
from services.gateway.chat import Chat, Peers
from services.gateway.feedback import Feedback
from services.gateway.generation import Patience
from services.gateway.http.app import make_app
from services.gateway.http.door import Door
from services.gateway.http.loop_files import LoopFiles
from services.gateway.http.openai import OpenAiApi
from services.gateway.http.page import PageApi
from services.gateway.http.server import serving_http
from services.gateway.key_commands import add_key_commands, run_key_command
from services.gateway.key_store import open_key_store
from services.gateway.keys import OWNER, Keys, owner_secret, stored
from services.gateway.loops import looping
from services.gateway.peers.conversations import ConversationsPeer
from services.gateway.peers.enhancer import EnhancerPeer
from services.gateway.peers.feedback import FeedbackPeer
from services.gateway.peers.generator import GeneratorPeer
from services.gateway.peers.guardrail import GuardrailPeer
from services.gateway.peers.session import SessionPeer
from services.gateway.quota import Allowance, Scope
from services.gateway.quotas import QuotaRules, Quotas
from services.gateway.servicer import ChatServicer, FeedbackServicer
from services.gateway.settings import GatewaySettings, KeySettings, QuotaOverride
from services.gateway.shared.answers import ValkeyAnswers
from services.gateway.shared.followers import Followers
from services.gateway.shared.link import Link, open_link
from services.gateway.shared.publisher import Publisher
from services.gateway.shared.quotas import ValkeyBook
from services.gateway.shared.seal import Seal
from services.gateway.shared.turn_log import TurnLog
from services.gateway.shared.turns import ValkeyTurns
from services.gateway.storing import Storing
from services.gateway.turns import Neighbours, TurnLimits, Turns
from services.gateway.writing import Pace

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Doors:
    """The gRPC half, to be served by the chassis, and where the HTTP half serves already."""

    registrations: Sequence[Registration]
    http_port: int


@asynccontextmanager
async def wiring(settings: GatewaySettings) -> AsyncIterator[Sequence[Registration]]:
    """As the chassis wants it."""
    async with opened(settings) as doors:
        log.info("serving http", extra=fields(port=doors.http_port))
        yield doors.registrations


@asynccontextmanager
async def opened(settings: GatewaySettings) -> AsyncIterator[Doors]:
    """Construct everything; HTTP serves within the block."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(open_key_store(settings.keys_database_url))
        if settings.owner_key_file:
            await store.add(stored(owner_secret(settings.owner_key_file), OWNER))
        keys = Keys(store, settings.key_cache_seconds)
        peers = await _Peers.open(settings, stack)
        link = await _valkey(settings, stack)
        chat_path = _chat(settings, peers, _answers(settings, link))
        turns = Turns(chat_path.run, _limits(settings), await _neighbours(settings, link, stack))
        chat = ChatServicer(turns, peers.session, peers.conversations)
        said = FeedbackServicer(Feedback(peers.session, peers.feedback, settings.principal_key.get_secret_value()))
        door = Door(keys, settings.max_rpc_seconds)
        routes = [
            *OpenAiApi(turns, peers.generator).routes(door),
            *PageApi(chat, said, peers.generator).routes(door),
            *LoopFiles(settings.loop_directory).routes(door),
        ]
        app = make_app(door, routes, _page(settings), with_metrics=settings.http_metrics)
        port = await stack.enter_async_context(serving_http(app, settings.host, settings.http_port))
        # Closed before HTTP is: the turns' ends are what their readers wait for.
        stack.push_async_callback(turns.close, settings.http_drain_seconds)
        yield Doors(_registrations(chat, said, keys, turns.hand_over), port)


async def _valkey(settings: GatewaySettings, stack: AsyncExitStack) -> Link | None:
    """The way to what gateways share; None: this process is the only one."""
    if not settings.valkey_url:
        return None
    return await stack.enter_async_context(open_link(settings.valkey_url, deadline_seconds=settings.valkey_seconds))


def _answers(settings: GatewaySettings, link: Link | None) -> Answers | None:
    if not settings.answer_cache_seconds:
        return None
    if link is None:
        return LocalAnswers(settings.answer_cache_seconds, settings.answer_cache_entries)
    seal = Seal(settings.valkey_secret.get_secret_value())
    return ValkeyAnswers(link, seal, settings.answer_cache_seconds, settings.answer_cache_entries)


async def _neighbours(settings: GatewaySettings, link: Link | None, stack: AsyncExitStack) -> Neighbours:
    """With Valkey other gateways know our turns and all share the quotas; without it this process is alone."""
    rules = _quota_rules(settings)
    if link is None:
        alone = Alone()
        return Neighbours(alone, alone, Quotas(rules))
    book = ValkeyBook(link, settings.quota_lease_seconds)
    quotas = Quotas(rules, book, settings.quota_when_away, settings.quota_lease_seconds)
    seal = Seal(settings.valkey_secret.get_secret_value())
    lease_seconds = settings.turn_lease_seconds
    turn_log = TurnLog(link, seal, uuid.uuid4().hex, settings.keep_seconds)
    publisher = Publisher(turn_log, settings.share_linger_seconds, settings.keep_seconds)
    followers = Followers(turn_log, settings.share_look_seconds, lease_seconds)
    shared = ValkeyTurns(link, turn_log, publisher, followers, lease_seconds)
    orders = partial(shared.serve_orders, settings.share_look_seconds)
    await stack.enter_async_context(looping(publisher.serve, followers.serve, shared.serve_beat, orders, quotas.serve))
    # Before the loops end: what the last turns have to say.
    stack.push_async_callback(quotas.flush)
    stack.push_async_callback(shared.close)
    return Neighbours(shared, shared, quotas)


def _quota_rules(settings: GatewaySettings) -> QuotaRules:
    general = settings.model_dump(include=set(QuotaOverride.model_fields))
    changed = {
        tenant: {**general, **override.model_dump(exclude_none=True)}
        for tenant, override in settings.quota_overrides.items()
    }
    return QuotaRules(
        *_allowances(general),
        {tenant: _allowances(limits) for tenant, limits in changed.items()},
        settings.quota_reply_tokens,
    )


def _allowances(limits: Mapping[str, int]) -> tuple[Allowance, Allowance]:
    """Of a user and of the tenant."""
    user, tenant = (
        Allowance(
            limits[f"{scope}_requests_per_minute"],
            limits[f"{scope}_tokens_per_day"],
            limits[f"max_turns_per_{scope}"],
        )
        for scope in Scope
    )
    return user, tenant


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

        async def channel(target: str) -> grpc.aio.Channel:
            return await stack.enter_async_context(open_channel(target))

        sessions = session_pb2_grpc.SessionServiceStub(await channel(settings.session_target))
        generator = await channel(settings.generator_target)
        feedback = FeedbackPeer(
            feedback_pb2_grpc.FeedbackLogServiceStub(await channel(settings.feedback_target)), settings.feedback_seconds
        )
        return cls(
            GuardrailPeer(
                guardrail_pb2_grpc.GuardrailServiceStub(await channel(settings.guardrail_target)),
                settings.guard_seconds,
            ),
            EnhancerPeer(
                enhancer_pb2_grpc.EnhancerServiceStub(await channel(settings.enhancer_target)),
                settings.enhancer_seconds,
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


def _chat(settings: GatewaySettings, peers: _Peers, answers: Answers | None) -> Chat:
    patience = Patience(settings.first_text_seconds, settings.idle_seconds)
    return Chat(
        Peers(peers.enhancer, peers.guardrail, peers.session, peers.generator),
        Pace(settings.coalesce_seconds, patience),
        Storing(peers.session, settings.finish_seconds),
        AnswerCache(answers, peers.generator),
    )


def _limits(settings: GatewaySettings) -> TurnLimits:
    return TurnLimits(
        max_turns=settings.max_turns,
        turn_seconds=settings.turn_seconds,
        keep_seconds=settings.keep_seconds,
        max_kept_characters=settings.max_kept_characters,
    )


def _registrations(
    chat: ChatServicer, said: FeedbackServicer, keys: Keys, on_drain: Callable[[], None]
) -> list[Registration]:
    chat_service = chat_pb2.DESCRIPTOR.services_by_name["ChatService"]
    feedback_service = feedback_pb2.DESCRIPTOR.services_by_name["FeedbackService"]
    return [
        Registration(
            chat_service.full_name,
            chat_pb2_grpc.add_ChatServiceServicer_to_server,
            guarded(chat_service, chat, keys),
            on_drain,
        ),
        Registration(
            feedback_service.full_name,
            feedback_pb2_grpc.add_FeedbackServiceServicer_to_server,
            guarded(feedback_service, said, keys),
        ),
    ]


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m services.gateway", description=__doc__)
    commands = parser.add_subparsers(dest="group")
    add_key_commands(commands.add_parser("keys", help="API keys"), KeySettings().keys_database_url)
    options = parser.parse_args()
    if options.group == "keys":
        return asyncio.run(run_key_command(options))
    run_service("gateway", load_settings(GatewaySettings), wiring)
    return 0


if __name__ == "__main__":
    sys.exit(main())
