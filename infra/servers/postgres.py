"""PostgreSQL, with its durability as it comes: every commit is synced to the disk.

It refuses to run as root. There it gets a user namespace of its own in which root is called nobody:
no system user is made, no file changes its owner, and folders that only root may enter stay as they
are.
"""

import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import SIGINT

from infra.servers.steps import run_steps
from infra.supervision.child import Program
from infra.supervision.kept import kept
from infra.supervision.ports import HOST

USER = "thumbwheel"
ASK_SECONDS = 4.0
MOST_CONNECTIONS = 200
SHARED_BUFFERS = "64MB"
NOBODY = 65534


@dataclass(frozen=True)
class Postgres:
    """One server; its password is made once and lies in its folder. On loopback, unless it is told
    to listen elsewhere.
    """

    folder: Path
    port: int
    listens_on: str = HOST

    @property
    def password(self) -> str:
        return kept(self.folder / "password")

    def url(self, database: str = "postgres", driver: str = "postgresql") -> str:
        """For SQLAlchemy with a driver such as postgresql+asyncpg or postgresql+pg8000; for libpq
        without.
        """
        return f"{driver}://{USER}:{self.password}@{HOST}:{self.port}/{database}"

    def prepare(self, binaries: Path) -> tuple[Program, ...]:
        """Make the data folder if there is none."""
        self.folder.mkdir(parents=True, exist_ok=True)
        password, data = self.password, self.folder / "data"
        if not data.exists():
            self._initialise(binaries, data)
        settings = {
            "port": self.port,
            "listen_addresses": self.listens_on,
            "unix_socket_directories": "",
            "max_connections": MOST_CONNECTIONS,
            "shared_buffers": SHARED_BUFFERS,
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        program = Program(
            name="postgres",
            command=not_as_root([str(binaries / "postgres"), "-D", str(data), *options]),
            environment={},
            port=self.port,
            stop_signal=SIGINT,  # SIGTERM waits until every client has left
            ready=partial(is_ready, self.port, password),
        )
        return (program,)

    def _initialise(self, binaries: Path, data: Path) -> None:
        """Beside its place and then put there, so that a folder half made is never started."""
        partial_data = self.folder / "data.partial"
        shutil.rmtree(partial_data, ignore_errors=True)
        command = [
            str(binaries / "initdb"),
            "-D",
            str(partial_data),
            "-U",
            USER,
            "--encoding=UTF8",
            "--locale=C",
        ]
        command += [
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
        ]  # the same on every machine
        command += ["--auth=scram-sha-256", f"--pwfile={self.folder / 'password'}"]
        run_steps(
            "making Postgres's folder (for root it takes user namespaces)", [not_as_root(command)]
        )
        if self.listens_on != HOST:  # initdb lets nobody in but this machine
            with (partial_data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all all scram-sha-256\n")
        partial_data.rename(data)


def not_as_root(command: list[str]) -> tuple[str, ...]:
    """The command as it is, or for root in a user namespace of its own."""
    if os.geteuid() != 0:
        return tuple(command)
    return ("unshare", "--user", f"--map-user={NOBODY}", "--", *command)


async def is_ready(port: int, password: str) -> bool:
    """Whether it answers a query."""
    # Not above: where the server only runs, in an image, there is no client.
    import asyncpg

    try:
        connection = await asyncpg.connect(
            host=HOST,
            port=port,
            user=USER,
            password=password,
            database="postgres",
            timeout=ASK_SECONDS,
        )
        try:
            return bool(await connection.fetchval("SELECT 1") == 1)
        finally:
            await connection.close()
    except (OSError, TimeoutError, asyncpg.PostgresError):
        return False
