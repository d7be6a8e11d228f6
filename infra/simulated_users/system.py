"""The embedded system that people talk to: the one that runs in a state folder, or one started
there for as long as it is needed.

Beside the public API it looks at two inner things: whether the sink has committed what was said,
and which version answers.
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

from infra.embedded.base_model import install_base
from infra.embedded.layout import ROOT, Layout, free_ports, programs, public_ports
from infra.embedded.surroundings import read_surroundings
from infra.simulated_users.client import CallFailedError, describe
from infra.supervision.supervisor import find_running, supervised
from infra.supervision.terminal import SUPERVISOR
from training.errors import DetailedError

CALL_SECONDS, LOAD_SECONDS = 20.0, 300.0
COMMIT_SECONDS, POLL_SECONDS = 120.0, 0.5
# The least share that is one: no person is to meet a version that only the judgement asks.
JUDGEMENT_SHARE, JUDGEMENT_SECONDS = 1e-6, 3600
Say = Callable[[str], None]


class NotCommittedError(DetailedError, RuntimeError):
    """What was acknowledged did not reach the log's committed part in time; the text says how far
    it came.
    """

    reason = "TIMED_OUT"


@dataclass(frozen=True)
class Rows:
    """Committed rows of both streams."""

    feedback: int
    turns: int


class System:
    """A running system, seen from beside it."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    @property
    def gateway(self) -> str:
        return self.layout.target("gateway")

    async def make_keys(self, user: str, count: int) -> list[str]:
        """API keys of `count` people, by the gateway's own command."""
        database = read_surroundings(self.layout.state).keys_database
        command = [sys.executable, "-m", "services.gateway", "keys", "--database", database]
        process = await asyncio.create_subprocess_exec(
            *(*command, "create", "--user", user, "--count", str(count)),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        out, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(f"the gateway's command made no keys: {out.decode().strip()}")
        return out.decode().split()

    async def committed(self) -> Rows:
        """What the sink has committed so far."""
        async with grpc.aio.insecure_channel(self.layout.target("feedback")) as channel:
            log = feedback_pb2_grpc.FeedbackLogServiceStub(channel)
            found = []
            for stream in (feedback_pb2.STREAM_FEEDBACK, feedback_pb2.STREAM_TURNS):
                request = feedback_pb2.ListSegmentsRequest(stream=stream)
                with _failing_plainly():
                    reply = await log.ListSegments(request, timeout=CALL_SECONDS)
                found.append(sum(segment.rows + segment.dead_letters for segment in reply.segments))
        return Rows(*found)

    async def wait_committed(self, wanted: Rows) -> None:
        """Until the sink has committed at least so much. Raises: NotCommittedError."""
        loop = asyncio.get_running_loop()
        end = loop.time() + COMMIT_SECONDS
        while (
            rows := await self.committed()
        ).feedback < wanted.feedback or rows.turns < wanted.turns:
            if loop.time() > end:
                raise NotCommittedError(
                    f"committed are {rows}, acknowledged {wanted}, after {COMMIT_SECONDS:.0f} s",
                    limit=f"{COMMIT_SECONDS:.0f} s",
                )
            await asyncio.sleep(POLL_SECONDS)

    async def rollout(self) -> generator_pb2.GetRolloutResponse:
        """Which versions answer, and how that came about."""
        async with grpc.aio.insecure_channel(self.layout.target("generator")) as channel:
            rollout = generator_pb2_grpc.RolloutServiceStub(channel)
            with _failing_plainly():
                return await rollout.GetRollout(
                    generator_pb2.GetRolloutRequest(), timeout=CALL_SECONDS
                )

    @asynccontextmanager
    async def also_serving(self, version: str) -> AsyncIterator[None]:
        """A version that is in the registry, beside the stable one, for those who pin it."""
        async with grpc.aio.insecure_channel(self.layout.target("generator")) as channel:
            rollout = generator_pb2_grpc.RolloutServiceStub(channel)
            request = generator_pb2.StartCanaryRequest(
                version=version,
                directory=str((self.layout.models / version).resolve()),
                share=JUDGEMENT_SHARE,
                lease=Duration(seconds=JUDGEMENT_SECONDS),
            )
            with _failing_plainly():
                await rollout.StartCanary(request, timeout=LOAD_SECONDS)
            try:
                yield
            finally:
                taken_off = generator_pb2.RollBackCanaryRequest(
                    version=version, reason="it served a comparison alone"
                )
                with _failing_plainly():
                    await rollout.RollBackCanary(taken_off, timeout=CALL_SECONDS)


@contextmanager
def _failing_plainly() -> Iterator[None]:
    """Raises: CallFailedError."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise CallFailedError(describe(error), reason=error.code().name) from error


def forget(state: Path, say: Say) -> None:
    """Remove an earlier demonstration, unless its system runs."""
    if state.exists() and find_running(state) is None:
        say(f"starting afresh: the earlier demonstration in {state} is removed")
        shutil.rmtree(state)


def find_system(
    state: Path, model: str, http_port: int, grpc_port: int, say: Say
) -> tuple[Layout, Path | None]:
    """The system that runs in a state folder; if none does, one that only has to be started, and
    its first version.

    Args:
        http_port: with grpc_port, used only if it is started; 0 picks a free one.
    """
    if running := find_running(state):
        say(f"the system that runs in {state} is used")
        return Layout(state, running.ports), None
    # None of the usual inner ports: another system may be starting beside this one.
    layout = Layout(state, {**free_ports(), **public_ports(http_port, grpc_port)})
    first = install_base(layout, model)
    layout.prepare()
    return layout, first


@asynccontextmanager
async def running_system(layout: Layout, first: Path | None, say: Say) -> AsyncIterator[System]:
    """What was found; started if it has to be, and then stopped at the end."""
    if first is None:
        yield System(layout)
        return
    say(f"starting the system in {layout.state}; logs are in {layout.logs}")

    def supervise(source: str, text: str) -> None:
        if source == SUPERVISOR:
            say(text)

    async with supervised(layout.state, layout.ports, programs(layout, first), supervise):
        say(f"chat with it meanwhile: {layout.page_url}")
        yield System(layout)
