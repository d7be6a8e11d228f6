"""Ports on loopback, each promised to one process until it ends, below the range that the system
gives to outgoing connections.

Within that range a port may be gone between the question and the bind; and a client that tries a
dead server's port again and again may be given that very port for its own end, talk to itself, and
keep the server from coming back.
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
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUAL_FIRST_OUTGOING = 32_768


class NoPortError(DetailedError):
    """Every port of the range is in use or promised."""

    reason = "IN_USE"


def free_port() -> int:
    """A port that nobody listens on now and no other process was promised. Raises: NoPortError."""
    return distinct_free_ports(1)[0]


def distinct_free_ports(count: int) -> list[int]:
    """So many of them, no two the same. Raises: NoPortError."""
    last = int(_OUTGOING.read_text().split()[0]) if _OUTGOING.exists() else USUAL_FIRST_OUTGOING
    found: list[int] = []
    for port in random.sample(range(FIRST_PORT, last), last - FIRST_PORT):
        if len(found) == count:
            return found
        if is_free(port) and _promise(port):
            found.append(port)
    raise NoPortError(
        f"no {count} free ports between {FIRST_PORT} and {last}", limit=f"{FIRST_PORT} to {last}"
    )


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _promise(port: int) -> bool:
    """The lock's descriptor stays open on purpose: the kernel lets the port go when the process
    ends, however it ends.
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
