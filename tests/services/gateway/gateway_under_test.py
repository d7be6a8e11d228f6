"""A complete gateway over fake services, with gRPC and HTTP on free ports.

Three users have keys: two of one tenant, and a user with the same name in another tenant.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
from starlette.applications import Starlette
from thumbwheel.chat.v1 import chat_pb2, chat_pb2_grpc
from thumbwheel.feedback.v1 import feedback_pb2_grpc
from thumbwheel.review.v1 import appeal_pb2_grpc, arena_pb2_grpc, review_pb2_grpc

from infra.run.embedded.layout import UNLIMITED_QUOTAS
from services.chassis.channel import open_channel
from services.chassis.identity import Caller
from services.chassis.server import serving
from services.gateway.__main__ import open_servers
from services.gateway.identity.authentication import mint
from services.gateway.identity.credential import ALL_SCOPES
from services.gateway.settings import GatewaySettings
from services.gateway.store.database import open_database
from services.gateway.store.keys import SqlKeyStore
from tests.services.gateway.fakes import Backends, backends

ADA, BOB = Caller("acme", "ada"), Caller("acme", "bob")
NAMESAKE = Caller("umbrella", "ada")
PRINCIPAL_KEY = "a key that only tests know"


@dataclass
class GatewayUnderTest:
    """A running gateway with its clients, keys and fakes."""

    fakes: Backends
    chat: Any
    feedback: Any
    arena: Any
    reviews: Any
    appeals: Any
    channel: grpc.aio.Channel
    http: aiohttp.ClientSession
    url: str
    grpc_target: str
    key: str
    other_key: str
    namesakes_key: str
    directory: Path
    app: Starlette | None
    store: SqlKeyStore

    def metadata(self, key: str | None = None) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {key or self.key}"),)

    def headers(self, key: str | None = None) -> dict[str, str]:
        return {"authorization": f"Bearer {key or self.key}"}

    def send(
        self, text: str = "What is it?", *, key: str | None = None, timeout: float = 10, **more: Any
    ) -> Any:
        """Start a SendMessage call. Iterate over the result for the events."""
        request = chat_pb2.SendMessageRequest(input=chat_pb2.UserInput(text=text), **more)
        return self.chat.SendMessage(request, timeout=timeout, metadata=self.metadata(key))

    async def ask(self, text: str = "What is it?", **more: Any) -> list[chat_pb2.ChatEvent]:
        """Return all events of a turn."""
        return [event async for event in self.send(text, **more)]


def settings_of(directory: Path, target: str, **changes: Any) -> dict[str, Any]:
    """Return settings of a gateway with all peers at the same address and without quotas."""
    values = {
        "port": 0,
        "http_port": 0,
        "guardrail_target": target,
        "enhancer_target": target,
        "session_target": target,
        "generator_target": target,
        "feedback_target": target,
        "review_target": target,
        "principal_key": PRINCIPAL_KEY,
        "database_url": f"sqlite+aiosqlite:///{directory}/keys.db",
        "loop_directory": directory / "loop",
        "coalesce_seconds": 0.0,
        "drain_seconds": 1.0,
        "http_drain_seconds": 0.0,
        **UNLIMITED_QUOTAS["gateway"],
    }
    return {**values, **changes}


@asynccontextmanager
async def run_gateway(directory: Path, **changes: Any) -> AsyncIterator[GatewayUnderTest]:
    """Run fakes and a gateway. `changes` are settings."""
    async with (
        backends() as (fakes, target),
        run_gateway_over(directory, fakes, target, **changes) as gateway,
    ):
        yield gateway


@asynccontextmanager
async def run_gateway_over(
    directory: Path, fakes: Backends, target: str, **changes: Any
) -> AsyncIterator[GatewayUnderTest]:
    """Run a gateway over fakes shared with others."""
    settings = GatewaySettings.model_validate(settings_of(directory, target, **changes))
    async with (
        open_database(settings.database_url) as engine,
        open_servers(settings) as servers,
        serving(settings, servers.registrations) as port,
        open_channel(f"127.0.0.1:{port}") as channel,
        aiohttp.ClientSession() as http,
    ):
        store = SqlKeyStore(engine)
        yield GatewayUnderTest(
            fakes=fakes,
            chat=chat_pb2_grpc.ChatServiceStub(channel),
            feedback=feedback_pb2_grpc.FeedbackServiceStub(channel),
            arena=arena_pb2_grpc.ArenaServiceStub(channel),
            reviews=review_pb2_grpc.ReviewServiceStub(channel),
            appeals=appeal_pb2_grpc.AppealServiceStub(channel),
            channel=channel,
            http=http,
            url=f"http://127.0.0.1:{servers.http_port}",
            grpc_target=f"127.0.0.1:{port}",
            key=await new_key(store, ADA),
            other_key=await new_key(store, BOB),
            namesakes_key=await new_key(store, NAMESAKE),
            directory=directory,
            app=servers.http,
            store=store,
        )


async def new_key(store: SqlKeyStore, caller: Caller, **more: Any) -> str:
    """Store a key and return the secret. By default the key has all scopes."""
    secret, key = mint(caller, **{"scopes": ALL_SCOPES, **more})
    await store.add(key)
    return secret


def text_of(events: list[chat_pb2.ChatEvent]) -> str:
    """Return the text of the answer from its deltas."""
    return "".join(event.text_delta.text for event in events)


def kinds_of(events: list[chat_pb2.ChatEvent]) -> list[str]:
    """Return the names of the events, with consecutive deltas counted once."""
    kinds: list[str] = []
    for event in events:
        kind = str(event.WhichOneof("event"))
        if not (kinds and kinds[-1] == kind == "text_delta"):
            kinds.append(kind)
    return kinds
