"""Clients of the feedback servicer in the process of the test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc

from services.chassis.channel import call_unary, open_channel
from services.chassis.identity import NO_CALL, CallContext, Caller, bind_call
from services.chassis.server import serving
from services.feedback.__main__ import wiring
from services.feedback.lake import parquet
from services.feedback.settings import FeedbackSettings
from tests.services.feedback.databases import put_sqlite
from tests.services.feedback.objects import decode
from tests.services.feedback.samples import ADA, KEY, MASTER, name

BOB = Caller("acme", "bob")


class Client:
    """Client that calls the service as a user."""

    def __init__(self, channel: grpc.aio.Channel, objects: Path, address: str) -> None:
        self.address = address
        self._stub, self._objects = feedback_pb2_grpc.FeedbackLogServiceStub(channel), objects

    async def call(self, method: str, request: Any, caller: Caller | None = ADA) -> Any:
        bind_call(CallContext(caller, "request") if caller else NO_CALL)
        return await call_unary("feedback", getattr(self._stub, method), request, within_seconds=20)

    async def record(self, event: events_pb2.FeedbackEvent, caller: Caller | None = ADA) -> Any:
        return await self.call(
            "RecordFeedback", feedback_pb2.RecordFeedbackRequest(event=event), caller
        )

    async def append(self, *turns: events_pb2.TurnEvent) -> Any:
        return await self.call(
            "AppendTurns", feedback_pb2.AppendTurnsRequest(turns=turns), caller=None
        )

    async def thumbs(self, *messages: str, caller: Caller | None = ADA) -> dict[str, bool]:
        request = feedback_pb2.GetThumbsRequest(message_ids=[name(message) for message in messages])
        return dict((await self.call("GetThumbs", request, caller)).thumbs)

    async def rows(self, stream: int, at_least: int) -> list[parquet.Row]:
        """Wait for a number of committed rows and return them."""
        async with asyncio.timeout(30):
            while True:
                answer = await self.call(
                    "ListSegments", feedback_pb2.ListSegmentsRequest(stream=stream)
                )
                if sum(segment.rows for segment in answer.segments) >= at_least:
                    break
                await asyncio.sleep(0.02)
        keys = [segment.object_key for segment in answer.segments if segment.object_key]
        return [row for key in keys for row in decode((self._objects / key).read_bytes())]


@asynccontextmanager
async def running(root: Path, **changes: Any) -> AsyncIterator[Client]:
    settings = FeedbackSettings(
        port=0,
        metrics_port=0,
        drain_seconds=1,
        lame_duck_seconds=0,
        principal_key=KEY,
        spool_directory=root / "spool",
        object_directory=root / "objects",
        database_url=f"sqlite:///{root}/ledger.db",
        **{"flush_seconds": 0.05, "master_key": MASTER} | changes,
    )
    put_sqlite(root / "ledger.db")
    async with (
        wiring(settings) as registrations,
        serving(settings, registrations) as port,
        open_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield Client(channel, root / "objects", f"127.0.0.1:{port}")
