"""The classes that a Kafka broker loads, archived as the Java machine wants them: it then starts in half the time."""

import asyncio
import dataclasses
import tempfile
from pathlib import Path

from infra.servers.java import Java
from infra.servers.kafka import Kafka
from infra.supervision.child import Child, Program
from infra.supervision.ports import distinct_free_ports

RUN_SECONDS = 120.0


def archive_classes(java: Java, folder: Path) -> None:
    """Run one broker until it answers; Java writes the archive when it ends."""
    writing = dataclasses.replace(java, class_data=f"-XX:ArchiveClassesAtExit={folder / 'kafka.jsa'}")
    with tempfile.TemporaryDirectory() as temporary:
        kafka = Kafka(Path(temporary), tuple(distinct_free_ports(2)))
        (broker,) = kafka.prepare(java)
        command = tuple(writing.class_data if word == java.class_data else word for word in broker.command)
        asyncio.run(_run_once(dataclasses.replace(broker, command=command, stop_seconds=RUN_SECONDS), Path(temporary)))


async def _run_once(broker: Program, folder: Path) -> None:
    child = Child(broker, lambda _source, _text: None, folder / "broker.log")
    child.start()
    try:
        await child.wait_ready(RUN_SECONDS)
    finally:
        await child.stop()
