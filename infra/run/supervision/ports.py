"""Ports on loopback, each reserved for a process until its end.

The ports lie below the ephemeral range of the system. Within that range a port may be taken between
the check and the bind. A client that retries the port of a dead server may also receive that same
port as its own source port, connect to itself and block the restart of the server.
"""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

from training.errors import DetailedError

HOST = "127.0.0.1"
FIRST_PORT = 12_000
_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
DEFAULT_FIRST_EPHEMERAL = 32_768


class NoPortError(DetailedError):
    """All ports of the range are in use or reserved."""

    reason = "IN_USE"


def free_port() -> int:
    """Return a port that is neither in use nor reserved by another process.

    Raises:
        NoPortError: no port is free.
    """
    return distinct_free_ports(1)[0]


def distinct_free_ports(count: int) -> list[int]:
    """Return distinct free ports.

    Raises:
        NoPortError: fewer ports are free.
    """
    last = (
        int(_EPHEMERAL_RANGE.read_text().split()[0])
        if _EPHEMERAL_RANGE.exists()
        else DEFAULT_FIRST_EPHEMERAL
    )
    found: list[int] = []
    for port in random.sample(range(FIRST_PORT, last), last - FIRST_PORT):
        if len(found) == count:
            return found
        if is_free(port) and _reserve(port):
            found.append(port)
    raise NoPortError(
        f"no {count} free ports between {FIRST_PORT} and {last}", limit=f"{FIRST_PORT} to {last}"
    )


def is_free(port: int) -> bool:
    """Return True if a server could bind the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _reserve(port: int) -> bool:
    """Reserve a port with a file lock.

    The descriptor stays open: the kernel releases the lock at the end of the process.
    """
    folder = Path(tempfile.gettempdir()) / f"thumbwheel-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder / str(port), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    return True
