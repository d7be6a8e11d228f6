"""What must be in the servers before a service starts: databases, their tables, topics, the bucket.
By the product's own commands.

All of it changes nothing where it is there already, so every start does it; a chart does the same
in a hook.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import asyncpg

from infra.embedded.layout import ROOT, program, service_settings
from infra.servers.errors import ServerError
from infra.stack.layout import DATABASES, StackLayout

COMMANDS = {
    "session": ("migrate",),
    "generator": ("migrate",),
    "gateway": ("migrate",),
    "feedback": ("migrate", "topics", "bucket"),
}


async def prepare_stores(stack: StackLayout, model: Path, say: Callable[[str], None]) -> None:
    """Databases, then each service's own commands, services side by side.

    Raises:
        ServerError: a command failed; with its last words.
    """
    say("making databases, tables, topics and bucket ready")
    await make_databases(stack.fleet.postgres.url(), DATABASES)
    settings = service_settings(stack.run, model)
    await asyncio.gather(
        *(
            _run_all(
                service,
                commands,
                program(service, stack.replica(service, 1, settings[service]), service).environment,
            )
            for service, commands in COMMANDS.items()
        )
    )


async def make_databases(url: str, names: Sequence[str]) -> None:
    """Those that are not there yet."""
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
            if process.returncode is None:  # Ctrl-C
                process.kill()
                await process.wait()
        if process.returncode:
            raise ServerError(
                f"python -m services.{service} {command} failed: {out.decode()[-2000:].strip()}",
                field=f"services.{service}",
                reason="FAILED",
            )
