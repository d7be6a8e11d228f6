"""`python -m infra.evaluation_stores.ping`: whether Valkey answers PING; while it loads what it
kept, it does not. For the pod's probes.

Nothing of ours is imported: a probe runs every few seconds.
"""

import socket
import sys
from pathlib import Path

PORT = 6379
PASSWORD = Path("/secrets/valkey-password")
ASK_SECONDS = 3.0


def answers(port: int, password: str) -> bool:
    """On loopback."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=ASK_SECONDS) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\nQUIT\r\n".encode())
            with connection.makefile("rb") as lines:
                return [line.strip() for line in lines][1:2] == [b"+PONG"]
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(not answers(PORT, PASSWORD.read_text().strip()))
