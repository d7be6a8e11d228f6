"""Cache of the classes of a Kafka broker (JEP 514).

The cache reduces the start from 2.6 s to 1.5 s of a core.
"""

import asyncio
import dataclasses
import tempfile
from pathlib import Path

from infra.machine.servers.errors import ServerError
from infra.machine.servers.kafka import Java, Kafka
from infra.run.supervision.child import Child, Program
from infra.run.supervision.ports import distinct_free_ports

CACHE_NAME = "kafka.aot"
RUN_SECONDS = 120.0
MAX_OUTPUT_CHARACTERS = 2_000


def cache_classes(java: Java, folder: Path) -> None:
    """Run a broker until ready; Java writes the cache at its end.

    Raises:
        ServerError: no cache was written; the message contains the end of the output.
    """
    cache = folder / CACHE_NAME
    writing = f"-XX:AOTCacheOutput={cache}"
    with tempfile.TemporaryDirectory() as temporary:
        kafka = Kafka(Path(temporary), tuple(distinct_free_ports(2)))
        (broker,) = kafka.prepare(java)
        command = tuple(writing if word == java.class_data else word for word in broker.command)
        asyncio.run(
            _run_once(
                dataclasses.replace(broker, command=command, stop_seconds=RUN_SECONDS),
                Path(temporary),
            )
        )
        if not cache.exists():
            log_tail = (Path(temporary) / "broker.log").read_text()[-MAX_OUTPUT_CHARACTERS:]
            raise ServerError(
                f"Java wrote no class cache for Kafka: {log_tail}",
                field=CACHE_NAME,
                reason="MISSING",
            )


async def _run_once(broker: Program, folder: Path) -> None:
    child = Child(broker, lambda _source, _text: None, folder / "broker.log")
    child.start()
    try:
        await child.wait_ready(RUN_SECONDS)
        await child.stop()
    finally:
        await child.kill()
