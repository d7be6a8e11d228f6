"""Failover of a server to an older copy of its data, as to an asynchronous replica that lags."""

import shutil
import subprocess
from pathlib import Path

from tests.servers import Server


class OlderCopy:
    """Copy of a folder of a server; all methods block.

    Args:
        server: The server, running.
        data: Its folder of data.
    """

    def __init__(self, server: Server, data: Path) -> None:
        self._server, self._data = server, data
        self._copy = data.with_name(f"{data.name}-copy")

    def take(self) -> None:
        """Stop the server, copy its data, and start the server again."""
        self._server.stop()
        subprocess.run(["cp", "-a", self._data, self._copy], check=True)
        self._server.start()

    def fail_over(self) -> None:
        """Kill the server and start on the copy: all later writes are lost."""
        self._server.kill()
        self.start()

    def start(self) -> None:
        """Start the killed server on the copy."""
        shutil.rmtree(self._data)
        self._copy.rename(self._data)
        self._server.start()
