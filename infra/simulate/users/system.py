"""Embedded system of the simulated users: running in a state folder, or started temporarily.

In addition to the public API, the demonstration reads the progress of the sink and the served
version from internal services.
"""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.protobuf.duration_pb2 import Duration
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc

from infra.run.embedded.base_model import install_base
from infra.run.embedded.environment import read_environment
from infra.run.embedded.layout import ROOT, Layout, free_ports, programs, public_ports
from infra.run.embedded.model_server import record_vllm
from infra.run.embedded.readiness import wait_for_model
from infra.run.supervision.supervisor import find_running, supervised
from infra.run.supervision.terminal import SUPERVISOR
from infra.simulate.users.client import CallFailedError, describe
from services.chassis.channel import open_channel
from services.chassis.service_identity import TokenSigner
from training.errors import DetailedError
from training.service_identity import FOLDER, OPERATOR

# A load by vLLM takes minutes on a busy machine; 840 s is below the longest deadline of a service.
CALL_SECONDS, LOAD_SECONDS = 20.0, 840.0
COMMIT_SECONDS, POLL_SECONDS = 120.0, 0.5
# Smallest share: users should not receive a version that serves the comparison only.
JUDGEMENT_SHARE, JUDGEMENT_SECONDS = 1e-6, 3600
Say = Callable[[str], None]


class NotCommittedError(DetailedError, RuntimeError):
    """Acknowledged feedback was not committed in time; the message contains the progress."""

    reason = "TIMED_OUT"


@dataclass(frozen=True)
class Rows:
    """Numbers of committed rows in both streams."""

    feedback: int
    turns: int


class System:
    """Access to a running system."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    @property
    def gateway(self) -> str:
        return self.layout.target("gateway")

    async def make_keys(self, user: str, count: int) -> list[str]:
        """Create API keys for `count` users with the command of the gateway."""
        database = read_environment(self.layout.state).keys_database
        command = [sys.executable, "-m", "services.gateway", "keys", "--database", database]
        process = await asyncio.create_subprocess_exec(
            *(*command, "create", "--user", user, "--count", str(count)),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"the gateway's command created no keys: {out.decode().strip()}")
        return out.decode().split()

    async def committed(self) -> Rows:
        """Return the numbers of rows committed by the sink."""
        async with self._channel("feedback") as channel:
            log = feedback_pb2_grpc.FeedbackLogServiceStub(channel)
            found = []
            for stream in (feedback_pb2.STREAM_FEEDBACK, feedback_pb2.STREAM_TURNS):
                request = feedback_pb2.ListSegmentsRequest(stream=stream)
                with _translated_errors():
                    reply = await log.ListSegments(request, timeout=CALL_SECONDS)
                found.append(sum(segment.rows + segment.dead_letters for segment in reply.segments))
        return Rows(*found)

    async def wait_committed(self, wanted: Rows) -> None:
        """Wait until the sink has committed the given rows.

        Raises:
            NotCommittedError: the time-out expired.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + COMMIT_SECONDS
        while (
            rows := await self.committed()
        ).feedback < wanted.feedback or rows.turns < wanted.turns:
            if loop.time() > end:
                raise NotCommittedError(
                    f"committed {rows}, acknowledged {wanted}, after {COMMIT_SECONDS:.0f} s",
                    limit=f"{COMMIT_SECONDS:.0f} s",
                )
            await asyncio.sleep(POLL_SECONDS)

    async def rollout(self) -> generator_pb2.GetRolloutResponse:
        """Return the served versions and their history."""
        async with self._channel("generator") as channel:
            rollout = generator_pb2_grpc.RolloutServiceStub(channel)
            with _translated_errors():
                return await rollout.GetRollout(
                    generator_pb2.GetRolloutRequest(), timeout=CALL_SECONDS
                )

    @asynccontextmanager
    async def also_serving(self, version: str) -> AsyncIterator[None]:
        """Serve a version of the registry next to the stable version, for pinned requests.

        During the watch after its replacement the version is served already; a canary would end
        the watch.
        """
        if (await self.rollout()).watch.previous.version == version:
            yield
            return
        async with self._channel("generator") as channel:
            rollout = generator_pb2_grpc.RolloutServiceStub(channel)
            request = generator_pb2.StartCanaryRequest(
                version=version,
                directory=str((self.layout.models / version).resolve()),
                share=JUDGEMENT_SHARE,
                lease=Duration(seconds=JUDGEMENT_SECONDS),
            )
            with _translated_errors():
                await rollout.StartCanary(request, timeout=LOAD_SECONDS)
            try:
                yield
            finally:
                taken_off = generator_pb2.RollBackCanaryRequest(
                    version=version, reason="served for a comparison only"
                )
                with _translated_errors():
                    await rollout.RollBackCanary(taken_off, timeout=CALL_SECONDS)

    def _channel(self, service: str) -> grpc.aio.Channel:
        """Return a channel that signs calls as `operator`, if the system requires tokens."""
        key = self.layout.state / FOLDER / f"{OPERATOR}.key"
        signer = TokenSigner(OPERATOR, key) if key.exists() else None
        return open_channel(self.layout.target(service), signer=signer)


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Translate RPC errors.

    Raises:
        CallFailedError: the RPC failed.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise CallFailedError(describe(error), reason=error.code().name) from error


def remove_previous(state: Path, say: Say) -> None:
    """Remove an earlier demonstration, unless its system is running."""
    if state.exists() and find_running(state) is None:
        say(f"removing the earlier demonstration in {state}")
        shutil.rmtree(state)


def find_system(
    state: Path,
    model: str,
    http_port: int,
    grpc_port: int,
    say: Say,
    vllm_python: Path | None = None,
    recipe: str = "",
) -> tuple[Layout, Path | None]:
    """Return the layout of the running system, or a layout and base model to start.

    Args:
        http_port, grpc_port: ports of a new system; 0 picks a free port.
        vllm_python: interpreter of the vLLM that serves a new system; None: the predictor.
        recipe: recipe of the loop that will train a new system's model.
    """
    if running := find_running(state):
        say(f"using the running system in {state}")
        return Layout(state, running.ports), None
    # Avoid the usual internal ports: another system may be starting concurrently.
    ports = {**free_ports(), **public_ports(http_port, grpc_port)}
    # Simulated users ask and rate more in a minute than people.
    layout = Layout(state, ports, vllm_python, without_quotas=True)
    first = install_base(layout, model, recipe)
    layout.prepare()
    record_vllm(state, vllm_python)
    return layout, first


@asynccontextmanager
async def running_system(layout: Layout, first: Path | None, say: Say) -> AsyncIterator[System]:
    """Yield the system. A new system is started and stopped at the end of the block."""
    if first is None:
        yield System(layout)
        return
    say(f"starting the system in {layout.state}; logs are in {layout.logs}")

    def supervise(source: str, text: str) -> None:
        if source == SUPERVISOR:
            say(text)

    async with supervised(layout.state, layout.ports, programs(layout, first), supervise):
        await wait_for_model(layout, supervise)
        say(f"chat at {layout.page_url}")
        yield System(layout)
