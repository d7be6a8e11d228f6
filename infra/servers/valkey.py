"""Valkey, the Redis of the Linux Foundation. It keeps a log of its writes, synced once a second, as
its own defaults say.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from infra.supervision.child import Program
from infra.supervision.kept import kept
from infra.supervision.ports import HOST

MOST_MEMORY = "256mb"
DATABASES = 1024
ASK_SECONDS = 4.0


@dataclass(frozen=True)
class Valkey:
    """One server; its password is made once and lies in its folder. On loopback, unless it is told
    to listen elsewhere.
    """

    folder: Path
    port: int
    listens_on: str = HOST

    @property
    def password(self) -> str:
        return kept(self.folder / "password")

    def url(self, database: int = 0) -> str:
        return f"valkey://:{self.password}@{HOST}:{self.port}/{database}"

    def prepare(self, binary: Path) -> tuple[Program, ...]:
        """Write the settings; in a file, because a command line can be read by everybody."""
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "bind": self.listens_on,
            "port": self.port,
            "requirepass": self.password,
            "dir": f'"{self.folder}"',
            "databases": DATABASES,
            "appendonly": "yes",
            "save": '""',
            "maxmemory": MOST_MEMORY,
            # Full, it refuses writes: a quota that was counted must not vanish silently.
            "maxmemory-policy": "noeviction",
        }
        file = self.folder / "valkey.conf"
        file.touch(mode=0o600)
        file.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
        ready = partial(is_ready, self.url())
        return (Program("valkey", (str(binary), str(file)), {}, self.port, ready=ready),)


async def is_ready(url: str) -> bool:
    """Whether it answers PING; while it still loads its log it does not."""
    # Not above: where the server only runs, in an image, there is no client.
    from valkey.asyncio import Valkey as Client
    from valkey.exceptions import ValkeyError

    client = Client.from_url(url, socket_timeout=ASK_SECONDS, socket_connect_timeout=ASK_SECONDS)
    try:
        return bool(await client.ping())
    except (OSError, ValkeyError):
        return False
    finally:
        await client.aclose()
