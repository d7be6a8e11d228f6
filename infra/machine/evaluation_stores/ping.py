"""Check whether Valkey answers PING, for the probes of the pod.

Usage: `python -m infra.machine.evaluation_stores.ping`. Valkey refuses PING while stored data load.
This module imports no other module of Thumbwheel, because a probe runs every few seconds.
"""

import socket
import sys
from pathlib import Path

PORT = 6379
PASSWORD = Path("/secrets/valkey-password")
TIMEOUT_SECONDS = 3.0


def answers(port: int, password: str) -> bool:
    """Return True if Valkey on loopback answers PING."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\nQUIT\r\n".encode())
            with connection.makefile("rb") as lines:
                return [line.strip() for line in lines][1:2] == [b"+PONG"]
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(not answers(PORT, PASSWORD.read_text().strip()))
