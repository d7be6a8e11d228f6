"""Free ports on loopback, each promised to one process until it ends.

They lie below the range from which the kernel serves outgoing connections (32768 on Linux): a port out of that range may be
gone between the question and the bind, and two systems that start at the same time may be given the same one.
"""

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path

HOST = "127.0.0.1"
LOWEST, HIGHEST = 18_000, 32_000


class NoPortError(Exception):
    """Every port of the range is in use or promised."""


def reserve_ports(count: int) -> list[int]:
    """Different ports that nobody listens on and no other process was promised.

    Raises:
        NoPortError: there are not so many.
    """
    found: list[int] = []
    for port in random.sample(range(LOWEST, HIGHEST), HIGHEST - LOWEST):
        if len(found) == count:
            return found
        if is_free(port) and _promise(port):
            found.append(port)
    raise NoPortError(f"no {count} free ports between {LOWEST} and {HIGHEST}")


def reserve_port() -> int:
    """One port; see `reserve_ports`."""
    return reserve_ports(1)[0]


def is_free(port: int) -> bool:
    """Nobody listens on it now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _promise(port: int) -> bool:
    """The lock's descriptor stays open on purpose: the kernel lets the port go when the process ends, however it ends."""
    folder = Path(tempfile.gettempdir()) / f"thumbwheel-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(folder / str(port), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    return True
