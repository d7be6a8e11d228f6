"""Run the gateway, or one of the commands `keys`, `identity` and `migrate`."""

import argparse
import asyncio
import logging
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import REGISTRY
from starlette.applications import Starlette
from thumbwheel.chat.v1 import chat_pb2, chat_pb2_grpc
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from thumbwheel.review.v1 import (
    appeal_pb2,
    appeal_pb2_grpc,
    arena_pb2,
    arena_pb2_grpc,
    review_pb2,
    review_pb2_grpc,
)

from services.chassis.admission import Admission
from services.chassis.calls.interceptor import Authorize
from services.chassis.errors import SchemaRevisionError, UnavailableError
from services.chassis.server import Registration, run_service
from services.chassis.settings import load_settings, program
from services.chassis.telemetry import fields, tracer
from services.gateway.access import access_check, with_known_fields
from services.gateway.answering.answer import AnswerTiming
from services.gateway.answering.answer_cache import AnswerCache, CacheBackend, LocalCacheBackend
from services.gateway.answering.chat import Chat
from services.gateway.background_tasks import background_tasks
from services.gateway.feedback import Feedback
from services.gateway.http.app import Router, make_app
from services.gateway.http.arena import ArenaApi
from services.gateway.http.loop_files import LoopFiles, LoopMetrics
from services.gateway.http.openai import OpenAiApi
from services.gateway.http.page import Account, PageApi
from services.gateway.http.reviews import ReviewsApi
from services.gateway.http.server import serving_http
from services.gateway.http.session import CookieRules, PageSessions
from services.gateway.http.version_files import EvaluationMetrics, VersionFiles
from services.gateway.identity.authentication import (
    OWNER,
    ApiKeys,
    Authenticator,
    TokenVerifier,
    owner_secret,
    stored_key,
)
from services.gateway.identity.end_users import EndUsers
from services.gateway.identity.key_commands import (
    add_audit_command,
    add_database,
    add_key_commands,
    run_audit_command,
    run_key_command,
    run_migrate_command,
)
from services.gateway.identity.service_key_commands import (
    add_identity_commands,
    run_identity_command,
)
from services.gateway.own_data import OwnData
from services.gateway.peers.clients import Peers
from services.gateway.quotas.quotas import Quotas
from services.gateway.reviews import ReviewTexts
from services.gateway.servicer import (
    AppealServicer,
    ArenaServicer,
    ChatServicer,
    FeedbackServicer,
    ReviewServicer,
)
from services.gateway.settings import DatabaseSettings, GatewaySettings
from services.gateway.shared.answer_cache import ValkeyCacheBackend
from services.gateway.shared.encryption import KeyDerivation
from services.gateway.shared.quota_store import ValkeyQuotaStore
from services.gateway.shared.turns import SharingIntervals, shared_turns
from services.gateway.shared.valkey_client import ValkeyClient, open_valkey
from services.gateway.store.database import open_database
from services.gateway.store.keys import SqlKeyStore
from services.gateway.turns.turn import traced
from services.gateway.turns.turns import SharedState, SingleReplica, TurnLimits, Turns

log = logging.getLogger(__name__)

# Pause recommended to a client whose turn was rejected by admission control.
RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Servers:
    """Registrations for the gRPC server, and the running HTTP server."""

    registrations: Sequence[Registration]
    http: Starlette
    http_port: int


@asynccontextmanager
async def wiring(settings: GatewaySettings) -> AsyncIterator[Sequence[Registration]]:
    """Provide the registrations in the form required by the chassis."""
    async with open_servers(settings) as servers:
        log.info("serving http", extra=fields(port=servers.http_port))
        REGISTRY.register(LoopMetrics(settings.loop_directory))
        REGISTRY.register(EvaluationMetrics(settings.loop_directory))
        yield servers.registrations


@asynccontextmanager
async def open_servers(settings: GatewaySettings) -> AsyncIterator[Servers]:
    """Construct all objects. HTTP is served during the block."""
    async with AsyncExitStack() as stack:
        authenticator = Authenticator(await _keys(settings, stack), await _tokens(settings, stack))
        peers = await Peers.open(settings, stack)
        # Without a URL this gateway is the only one.
        valkey = (
            await stack.enter_async_context(
                open_valkey(settings.valkey_url, deadline_seconds=settings.valkey_seconds)
            )
            if settings.valkey_url
            else None
        )
        shared_state = await _shared_state(settings, valkey, stack)
        cache = AnswerCache(_cache_backend(settings, valkey), peers.generator)
        turns = _turns(settings, peers, cache, shared_state)
        chat = ChatServicer(turns, peers.session, peers.conversations)
        principal_key = settings.principal_key.get_secret_value()
        feedback = FeedbackServicer(
            Feedback(
                peers.session, peers.feedback, peers.guardrail, shared_state.quotas, principal_key
            ),
            OwnData(turns, peers.session, peers.feedback, cache, shared_state.quotas),
            peers.feedback,
        )
        arena = ArenaServicer(peers.review)
        appeals = AppealServicer(shared_state.quotas, peers.review)
        reviews = ReviewServicer(ReviewTexts(peers.guardrail, shared_state.quotas), peers.review)
        sessions = PageSessions(
            authenticator,
            settings.session_secrets(),
            CookieRules(settings.page_session_seconds, settings.is_session_secure),
        )
        end_users = EndUsers(principal_key)
        authorize = access_check(authenticator, end_users, shared_state.quotas)
        router = Router(
            authenticator, sessions, end_users, shared_state.quotas, settings.max_rpc_seconds
        )
        routes = [
            *OpenAiApi(turns, peers.generator, end_users).routes(router),
            *PageApi(chat, feedback, peers.generator, peers.feedback).routes(router),
            *ArenaApi(arena, peers.generator).routes(router),
            *ReviewsApi(appeals, reviews).routes(router),
            *Account(sessions).routes(router),
            *LoopFiles(settings.loop_directory).routes(router),
            *VersionFiles(settings.loop_directory).routes(router),
        ]
        app = make_app(router, routes, _page(settings), with_metrics=settings.http_metrics)
        port = await stack.enter_async_context(
            serving_http(app, settings.host, settings.http_port, settings.max_write_seconds)
        )
        # Turns are closed before the HTTP server, because their readers wait for the final events.
        stack.push_async_callback(turns.close, settings.http_drain_seconds)
        yield Servers(
            _registrations(chat, feedback, arena, appeals, reviews, authorize, turns.hand_over),
            app,
            port,
        )


def _turns(
    settings: GatewaySettings, peers: "Peers", cache: AnswerCache, shared_state: SharedState
) -> Turns:
    chat_path = Chat(
        peers.enhancer,
        peers.guardrail,
        peers.session,
        peers.generator,
        peers.review,
        cache,
        AnswerTiming(settings.coalesce_seconds, settings.first_text_seconds, settings.idle_seconds),
        settings.finish_seconds,
    )
    return Turns(
        traced(chat_path.run, tracer()),
        TurnLimits(
            turn_seconds=settings.turn_seconds,
            keep_seconds=settings.keep_seconds,
            max_kept_characters=settings.max_kept_characters,
        ),
        shared_state,
        Admission("turns", settings.sure_turns, settings.max_turns, RETRY_SECONDS),
    )


def _cache_backend(settings: GatewaySettings, valkey: ValkeyClient | None) -> CacheBackend | None:
    if not settings.answer_cache_seconds:
        return None
    if valkey is None:
        return LocalCacheBackend(settings.answer_cache_seconds, settings.answer_cache_entries)
    keys = KeyDerivation(settings.valkey_secret.get_secret_value())
    return ValkeyCacheBackend(
        valkey, keys, settings.answer_cache_seconds, settings.answer_cache_entries
    )


async def _shared_state(
    settings: GatewaySettings, valkey: ValkeyClient | None, stack: AsyncExitStack
) -> SharedState:
    """Return the interfaces to other gateways, through Valkey or local only."""
    rules = settings.quota_rules()
    if valkey is None:
        single = SingleReplica()
        return SharedState(single, single, single, Quotas(rules))
    intervals = SharingIntervals(
        keep_seconds=settings.keep_seconds,
        lease_seconds=settings.turn_lease_seconds,
        linger_seconds=settings.share_linger_seconds,
        poll_seconds=settings.share_look_seconds,
    )
    keys = KeyDerivation(settings.valkey_secret.get_secret_value())
    turns, erasures = await stack.enter_async_context(shared_turns(valkey, keys, intervals))
    store = ValkeyQuotaStore(valkey, settings.quota_lease_seconds)
    quotas = Quotas(rules, store, settings.quota_when_away, settings.quota_lease_seconds)
    await stack.enter_async_context(background_tasks(quotas.serve))
    # Runs before the background task ends, to settle the usage of the last turns.
    stack.push_async_callback(quotas.flush)
    return SharedState(turns, turns, erasures, quotas)


async def _keys(settings: GatewaySettings, stack: AsyncExitStack) -> ApiKeys:
    database = open_database(
        settings.database_url,
        wait_seconds=settings.database_seconds,
        connections=settings.database_connections,
    )
    store = SqlKeyStore(await stack.enter_async_context(database))
    if settings.owner_key_file:
        await store.add(stored_key(owner_secret(settings.owner_key_file), OWNER), "gateway")
    for subject, content in settings.audited().items():
        await store.note_configuration(subject, content)
    keys = ApiKeys(
        store,
        settings.key_cache_seconds,
        # Two of the five connections by default.
        unknown_lookups=max(1, settings.database_connections // 2),
    )
    return await stack.enter_async_context(keys)


async def _tokens(settings: GatewaySettings, stack: AsyncExitStack) -> TokenVerifier | None:
    if not settings.oidc_issuers:
        return None
    # The import takes 0.5 s of processor time, saved at the start of a gateway without issuers.
    import aiohttp

    from services.gateway.identity.oidc import OidcVerifier
    from services.gateway.identity.signing_keys import KeyAgeLimits, SigningKeys
    from services.gateway.peers.issuer import IssuerPeer

    http = await stack.enter_async_context(aiohttp.ClientSession())
    ages = KeyAgeLimits(
        settings.oidc_refresh_seconds, settings.oidc_stale_seconds, settings.oidc_retry_seconds
    )
    issuers = {}
    for issuer in (entry.rules() for entry in settings.oidc_issuers):
        keys = SigningKeys(
            issuer.url, IssuerPeer(http, issuer.url, settings.oidc_fetch_seconds).signing_keys, ages
        )
        stack.push_async_callback(keys.close)
        issuers[issuer.url] = (issuer, keys)
    return OidcVerifier(issuers, settings.oidc_leeway_seconds)


def _page(settings: GatewaySettings) -> Path | None:
    """Return the folder of the built page, or None. Without the page the APIs still work."""
    if settings.page_directory and not settings.page_directory.is_dir():
        log.warning("page not built", extra=fields(directory=str(settings.page_directory)))
        return None
    return settings.page_directory


def _registrations(
    chat: ChatServicer,
    feedback: FeedbackServicer,
    arena: ArenaServicer,
    appeals: AppealServicer,
    reviews: ReviewServicer,
    authorize: Authorize,
    on_drain: Callable[[], None],
) -> list[Registration]:
    chat_service = chat_pb2.DESCRIPTOR.services_by_name["ChatService"]
    feedback_service = feedback_pb2.DESCRIPTOR.services_by_name["FeedbackService"]
    arena_service = arena_pb2.DESCRIPTOR.services_by_name["ArenaService"]
    appeal_service = appeal_pb2.DESCRIPTOR.services_by_name["AppealService"]
    review_service = review_pb2.DESCRIPTOR.services_by_name["ReviewService"]
    return [
        Registration(
            chat_service.full_name,
            chat_pb2_grpc.add_ChatServiceServicer_to_server,
            with_known_fields(chat_service, chat),
            authorize,
            on_drain,
            # Turns have their own admission control for all APIs, and a cancel reduces load.
            unlimited=frozenset({"SendMessage", "ResumeMessage", "CancelMessage"}),
        ),
        Registration(
            feedback_service.full_name,
            feedback_pb2_grpc.add_FeedbackServiceServicer_to_server,
            with_known_fields(feedback_service, feedback),
            authorize,
        ),
        Registration(
            arena_service.full_name,
            arena_pb2_grpc.add_ArenaServiceServicer_to_server,
            with_known_fields(arena_service, arena),
            authorize,
        ),
        Registration(
            appeal_service.full_name,
            appeal_pb2_grpc.add_AppealServiceServicer_to_server,
            with_known_fields(appeal_service, appeals),
            authorize,
        ),
        Registration(
            review_service.full_name,
            review_pb2_grpc.add_ReviewServiceServicer_to_server,
            with_known_fields(review_service, reviews),
            authorize,
        ),
    ]


def main() -> int:
    """Run the command. Returns the exit status."""
    parser = argparse.ArgumentParser(prog=program("gateway"), description=__doc__)
    commands = parser.add_subparsers(dest="group")
    database_url = load_settings(DatabaseSettings).database_url
    add_key_commands(commands.add_parser("keys", help="API keys"), database_url)
    add_database(
        commands.add_parser("migrate", help="migrate the database to the current revision"),
        database_url,
    )
    add_audit_command(
        commands.add_parser("audit-log", help="print administrative acts as JSON"), database_url
    )
    add_identity_commands(commands.add_parser("identity", help="keys that sign inner calls"))
    options = parser.parse_args()
    try:
        match options.group:
            case "identity":
                return run_identity_command(options)
            case "keys":
                return asyncio.run(run_key_command(options))
            case "audit-log":
                return asyncio.run(run_audit_command(options))
            case "migrate":
                return asyncio.run(run_migrate_command(options))
            case _:
                run_service("gateway", load_settings(GatewaySettings), wiring)
                return 0
    except (SchemaRevisionError, UnavailableError) as error:
        # Only the type of the cause is printed, because its text may quote the database URL.
        sys.exit(f"{error} ({type(error.__cause__).__name__})" if error.__cause__ else str(error))


if __name__ == "__main__":
    sys.exit(main())
