"""A loaded version with its vLLM process, as the repository of versions holds it.

A process that ends by itself is reported, and its version is unloaded: the generator's reconcile
loop then loads the version again.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from infra.run.vllm_server.process import VllmProcess
from services.chassis.telemetry import fields

log = logging.getLogger(__name__)
DRAIN_POLL_SECONDS = 0.05


@dataclass(eq=False)
class VllmVersion:
    """A version with its process and the number of its running requests (`LoadedVersion`)."""

    name: str
    process: VllmProcess
    created: int = field(default_factory=lambda: int(time.time()))
    active: int = 0
    failure: str = ""
    watch: asyncio.Task[None] | None = None

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Count the block as a running request."""
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1

    async def drain(self, seconds: float) -> None:
        """Wait for running requests, at most `seconds`; an ended process has none."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.active and not self.failure:  # noqa: ASYNC110 - ends with an answer
                    await asyncio.sleep(DRAIN_POLL_SECONDS)

    async def close(self) -> None:
        """Stop the process of this version."""
        if self.watch is not None:
            self.watch.cancel()
        await self.process.stop()


@dataclass(frozen=True)
class VllmLoader:
    """Loads versions; belongs to the event loop of the main thread.

    Args:
        make_process: returns the process of a version and its model directory, not started.
        load_seconds: time for the start of a process.
        note_end: unloads the named version, whose process ended by itself.
    """

    make_process: Callable[[str, Path], VllmProcess]
    load_seconds: float
    note_end: Callable[[str], Awaitable[None]]

    async def load(self, name: str, directory: Path) -> VllmVersion:
        """Start the process of a version and return when it answers.

        Raises:
            ModelRefusedError: vLLM does not serve the model; the text names the cause.
        """
        process = self.make_process(name, directory)
        log.info("starting vLLM", extra=fields(version=name, log=str(process.log)))
        try:
            await process.start(self.load_seconds)
        except BaseException:
            await asyncio.shield(process.stop())
            raise
        version = VllmVersion(name, process)
        version.watch = asyncio.create_task(self._watch(version))
        return version

    async def _watch(self, version: VllmVersion) -> None:
        how = await version.process.wait_end()
        version.failure = f"vLLM ended by itself ({how})"
        log.error(
            "vLLM ended by itself",
            extra=fields(version=version.name, how=how, log=str(version.process.log)),
        )
        # Its engine may still hold the memory.
        await self.note_end(version.name)
