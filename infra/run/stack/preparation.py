"""Preparation of the stores before services start: databases, tables, topics, bucket.

The commands of the services do the work. Every step is idempotent and runs at every start. The
chart runs the same steps in a hook.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import asyncpg

from infra.machine.servers.errors import ServerError
from infra.run.embedded.layout import ROOT, program, service_settings
from infra.run.stack.layout import StackLayout
from infra.service_table import service_table


async def prepare_stores(
    stack: StackLayout, model: Path | None, say: Callable[[str], None]
) -> None:
    """Create databases, then run the commands of all services concurrently.

    Raises:
        ServerError: a command failed; the message contains the end of its output.
    """
    say("preparing databases, tables, topics and bucket")
    await make_databases(stack.fleet.postgres.url(), service_table().databases)
    settings = service_settings(stack.run, model)
    await asyncio.gather(
        *(
            _run_all(
                name,
                service.prepare,
                program(name, stack.replica(service, 1, settings[name]), name).environment,
            )
            for name, service in service_table().services.items()
            if service.prepare
        )
    )


async def make_databases(url: str, names: Sequence[str]) -> None:
    """Create the databases that do not exist."""
    connection = await asyncpg.connect(url)
    try:
        there = {
            row["datname"] for row in await connection.fetch("SELECT datname FROM pg_database")
        }
        for name in names:
            if name not in there:
                await connection.execute(f'CREATE DATABASE "{name}"')
    finally:
        await connection.close()


async def _run_all(service: str, commands: Sequence[str], environment: Mapping[str, str]) -> None:
    for command in commands:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"services.{service}", command),
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            out, _ = await process.communicate()
        finally:
            if process.returncode is None:  # Interrupted by Ctrl-C.
                process.kill()
                await process.wait()
        if process.returncode:
            raise ServerError(
                f"python -m services.{service} {command} failed: {out.decode()[-2000:].strip()}",
                field=f"services.{service}",
                reason="FAILED",
            )
