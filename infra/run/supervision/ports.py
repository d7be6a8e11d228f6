"""Ports on loopback, each reserved for a process until its end, also against other users.

Free ports lie below the ephemeral range of the system. Within that range a port may be taken
between the check and the bind. A client that retries the port of a dead server may also receive
that port as its own source port, connect to itself and block the restart of the server.
"""

import random
import socket
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
        if reserve(port):
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


def reserve(port: int) -> bool:
    """Reserve a free port for this process; return False if it is in use or reserved.

    The reservation is a name of Linux without a file, which all users of the machine share. The
    descriptor stays open: the kernel releases the name at the end of the process.
    """
    if not is_free(port):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as reservation:
        try:
            reservation.bind(f"\0thumbwheel-port-{port}")
        except OSError:
            return False
        reservation.detach()
    return True
