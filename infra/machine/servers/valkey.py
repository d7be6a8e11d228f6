"""Valkey, the Redis fork of the Linux Foundation.

Writes are appended to a log that is synced once a second, the default of Valkey.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from infra.run.supervision.child import Program
from infra.run.supervision.ports import HOST
from infra.run.supervision.secret_file import read_or_create

MAX_MEMORY = "256mb"
DATABASES = 1024
TIMEOUT_SECONDS = 4.0


@dataclass(frozen=True)
class Valkey:
    """A server on loopback or another address.

    The password is generated once and stored in the folder.
    """

    folder: Path
    port: int
    listens_on: str = HOST

    @property
    def password(self) -> str:
        return read_or_create(self.folder / "password")

    def url(self, database: int = 0) -> str:
        return f"valkey://:{self.password}@{HOST}:{self.port}/{database}"

    def prepare(self, binary: Path) -> tuple[Program, ...]:
        """Write the settings to a file, because all users can read command lines."""
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "bind": self.listens_on,
            "port": self.port,
            "requirepass": self.password,
            "dir": f'"{self.folder}"',
            "databases": DATABASES,
            "appendonly": "yes",
            "save": '""',
            "maxmemory": MAX_MEMORY,
            # Reject writes when full: evictions would silently lose counted quotas.
            "maxmemory-policy": "noeviction",
        }
        file = self.folder / "valkey.conf"
        file.touch(mode=0o600)
        file.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
        ready = partial(is_ready, self.url())
        return (Program("valkey", (str(binary), str(file)), {}, self.port, ready=ready),)


async def is_ready(url: str) -> bool:
    """Return True if the server answers PING; while loading its log the server does not."""
    # Imported here: the image of the server contains no client.
    from valkey.asyncio import Valkey as Client
    from valkey.exceptions import ValkeyError

    client = Client.from_url(
        url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
    )
    try:
        return bool(await client.ping())
    except (OSError, ValkeyError):
        return False
    finally:
        await client.aclose()
