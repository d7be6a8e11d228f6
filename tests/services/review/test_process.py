"""The review service as a process: recovery after SIGKILL, signed calls, commands of operators."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from thumbwheel.review.v1 import arena_pb2, review_pb2

from services.chassis.channel import open_channel
from services.chassis.errors import from_rpc
from services.chassis.identity import Caller
from services.chassis.identity_keys import create_key_pair
from services.chassis.service_identity import IDENTITY_KEY, TokenSigner
from services.contracts.identifiers import principal_of
from tests.services.review.service import (
    ADA,
    PRINCIPAL_KEY,
    Home,
    Peers,
    Review,
    drawn_item,
    peer_services,
    review_service,
    review_stubs,
)
from tests.support.service_process import served_port

ROOT = Path(__file__).resolve().parents[3]


async def start(home: Home, *arguments: str, **settings: Any) -> asyncio.subprocess.Process:
    values = {
        "port": 0,
        "metrics_port": 0,
        "database_url": home.database_url,
        "principal_key": PRINCIPAL_KEY,
        "relay_poll_seconds": 0.05,
    } | settings
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TW_")}
    own = {f"TW_REVIEW_{name.upper()}": str(value) for name, value in values.items()}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.review",
        *arguments,
        cwd=ROOT,
        env=kept | own,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def running(
    home: Home, peers: Peers, **settings: Any
) -> AsyncIterator[tuple[Review, asyncio.subprocess.Process]]:
    """Start the service with fakes of its peers; kill the process at the end."""
    async with peer_services(peers) as port:
        targets = {f"{peer}_target": f"127.0.0.1:{port}" for peer in vars(peers)}
        process = await start(home, **targets, **settings)
        try:
            own_port = await served_port(process)
            async with open_channel(f"127.0.0.1:{own_port}") as channel:
                yield review_stubs(channel, peers), process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


async def test_sigkill_loses_no_acknowledged_vote(home: Home) -> None:
    peers = Peers()
    peers.feedback.failures = [grpc.StatusCode.UNAVAILABLE] * 1_000
    async with running(home, peers) as (review, process):
        voted = await review.whole_battle()
        process.kill()
    assert not peers.feedback.events
    peers.feedback.failures = []
    async with running(home, peers) as (review, process):
        assert await review.get(voted.battle_id) == voted
        async with asyncio.timeout(10):
            while not peers.feedback.events:
                await asyncio.sleep(0.02)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    assert [event.accept_time for event in peers.feedback.events] == [voted.vote_time]


async def test_calls_are_accepted_from_their_callers_only(
    sqlite_home: Home, tmp_path: Path
) -> None:
    """Users arrive through the gateway, and items from training."""
    public, outcomes = tmp_path / "public", {}
    signers = {}
    for caller in ("gateway", "training"):
        create_key_pair(caller, tmp_path / f"{caller}.key", public)
        signers[caller] = TokenSigner(caller, tmp_path / f"{caller}.key")
    async with running(sqlite_home, Peers(), identity_keys=public) as (review, _):
        calls = {
            "ArenaService/CreateBattle": (
                review.arena.CreateBattle,
                arena_pb2.CreateBattleRequest(request_id="r1"),
            ),
            "ReviewService/GetAgreement": (
                review.reviews.GetAgreement,
                review_pb2.GetAgreementRequest(),
            ),
            "ReviewItemService/AddItems": (
                review.items.AddItems,
                review_pb2.AddItemsRequest(items=[drawn_item()]),
            ),
        }
        for name, (method, request) in calls.items():
            found = []
            for caller in ("", *signers):
                metadata: Any = ADA
                if caller:
                    path = f"/thumbwheel.review.v1.{name}"
                    token = signers[caller].token(path, Caller("acme", "ada"))
                    metadata = (*ADA, (IDENTITY_KEY, token))
                try:
                    await method(request, timeout=10, metadata=metadata)
                    found.append("OK")
                except grpc.aio.AioRpcError as error:
                    found.append(from_rpc(error, "review").reason)
            outcomes[name] = found
    of_gateway = ["SERVICE_TOKEN_MISSING", "OK", "PEER_NOT_ALLOWED"]
    assert outcomes == {
        "ArenaService/CreateBattle": of_gateway,
        "ReviewService/GetAgreement": of_gateway,
        "ReviewItemService/AddItems": ["SERVICE_TOKEN_MISSING", "PEER_NOT_ALLOWED", "OK"],
    }


async def test_operator_quarantines_and_releases_an_account(sqlite_home: Home) -> None:
    async with review_service(sqlite_home) as review:
        await review.whole_battle()

    async def run(*arguments: str) -> tuple[int | None, str]:
        process = await start(sqlite_home, *arguments)
        output, _ = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode, output.decode()

    user = ("--tenant", "acme", "--user", "ada", "--reason", "a test", "--by", "eve")
    assert (await run("accounts", "quarantine", *user)) == (0, "quarantined\n")
    assert (await run("accounts", "quarantine", *user))[0] == 1
    principal = principal_of(PRINCIPAL_KEY, Caller("acme", "ada"))
    _, listed = await run("accounts", "list", "--quarantined")
    assert re.fullmatch(rf"{principal}  acme +1 votes since \S+  trust 1.00  quarantined\n", listed)
    released = ("--principal", principal, "--reason", "a fan", "--by", "eve")
    assert (await run("accounts", "release", *released)) == (0, "released\n")
    assert (await run("accounts", "release", "--reason", "neither name"))[0] == 2
    _, printed = await run("audit-log")
    acts = [json.loads(line) for line in printed.splitlines()]
    assert [(act["act"], act["outcome"], act["actor"]) for act in acts] == [
        ("account quarantined", "done", "operator/eve"),
        ("account quarantined", "no such account", "operator/eve"),
        ("account released", "done", "operator/eve"),
    ]
