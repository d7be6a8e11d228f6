"""PostgreSQL with its default durability: every commit is synced to disk.

Postgres refuses to run as root. For root the server therefore runs in a user namespace that maps
root to uid 65534. No system user is created, no file changes its owner, and folders for root only
stay accessible.
"""

import os
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from signal import SIGINT

from infra.machine.servers.steps import run_steps
from infra.run.supervision.child import Program
from infra.run.supervision.ports import HOST
from infra.run.supervision.secret_file import read_or_create

USER = "thumbwheel"
TIMEOUT_SECONDS = 4.0
MAX_CONNECTIONS = 200
SHARED_BUFFERS = "64MB"
NOBODY_UID = 65534


@dataclass(frozen=True)
class Postgres:
    """A server on loopback or another address.

    The password is generated once and stored in the folder.
    """

    folder: Path
    port: int
    listens_on: str = HOST

    @property
    def password(self) -> str:
        return read_or_create(self.folder / "password")

    def url(self, database: str = "postgres", driver: str = "postgresql") -> str:
        """Return a URL.

        For SQLAlchemy pass a driver such as postgresql+asyncpg or postgresql+pg8000; the default is
        for libpq.
        """
        return f"{driver}://{USER}:{self.password}@{HOST}:{self.port}/{database}"

    def prepare(self, binaries: Path) -> tuple[Program, ...]:
        """Create the data folder if missing and return the program."""
        self.folder.mkdir(parents=True, exist_ok=True)
        password, data = self.password, self.folder / "data"
        if not data.exists():
            self._initialise(binaries, data)
        settings = {
            "port": self.port,
            "listen_addresses": self.listens_on,
            "unix_socket_directories": "",
            "max_connections": MAX_CONNECTIONS,
            "shared_buffers": SHARED_BUFFERS,
        }
        options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        program = Program(
            name="postgres",
            command=not_as_root([str(binaries / "postgres"), "-D", str(data), *options]),
            environment={},
            port=self.port,
            stop_signal=SIGINT,  # SIGTERM waits until all clients disconnect
            ready=partial(is_ready, self.port, password),
        )
        return (program,)

    def _initialise(self, binaries: Path, data: Path) -> None:
        """Initialise a temporary folder and rename the folder.

        An incomplete folder is never started.
        """
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
        ]  # the same collation on every machine
        command += ["--auth=scram-sha-256", f"--pwfile={self.folder / 'password'}"]
        run_steps(
            "initialising the folder of Postgres (as root this needs user namespaces)",
            [not_as_root(command)],
        )
        if self.listens_on != HOST:  # initdb permits local connections only
            with (partial_data / "pg_hba.conf").open("a") as rules:
                rules.write("host all all all scram-sha-256\n")
        # Renamed last, so that `data` exists only after a complete initialisation.
        partial_data.rename(data)


def not_as_root(command: list[str]) -> tuple[str, ...]:
    """Return the command; for root, wrapped in a new user namespace."""
    if os.geteuid() != 0:
        return tuple(command)
    return ("unshare", "--user", f"--map-user={NOBODY_UID}", "--", *command)


async def is_ready(port: int, password: str) -> bool:
    """Return True if the server answers a query."""
    # Imported here: the image of the server contains no client.
    import asyncpg

    try:
        connection = await asyncpg.connect(
            host=HOST,
            port=port,
            user=USER,
            password=password,
            database="postgres",
            timeout=TIMEOUT_SECONDS,
        )
        try:
            return bool(await connection.fetchval("SELECT 1") == 1)
        finally:
            await connection.close()
    except (OSError, TimeoutError, asyncpg.PostgresError):
        return False
