"""Ports on loopback, below the range that the system gives to outgoing connections.

A client that tries a dead server's port again and again may be given that very port for its own end, talk to itself, and
keep the server from coming back. Outside of that range it cannot.
"""

import contextlib
import random
import socket
from pathlib import Path

HOST = "127.0.0.1"
FIRST_PORT = 12_000
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUAL_FIRST_OUTGOING = 32_768


def free_port() -> int:
    """A port that nobody listens on now."""
    return distinct_free_ports(1)[0]


def distinct_free_ports(count: int) -> list[int]:
    """Held open together until all are known, so that no two are the same."""
    last = int(_OUTGOING.read_text().split()[0]) if _OUTGOING.exists() else USUAL_FIRST_OUTGOING
    candidates = random.sample(range(FIRST_PORT, last), last - FIRST_PORT)
    found: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(found) < count:
            port = candidates.pop()
            probe = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind((HOST, port))
                found.append(port)
    return found


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
