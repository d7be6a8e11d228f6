"""Servers and clients on both sides of the proxies, with plain sockets and threads."""

import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

SECONDS = 10.0


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 64


@contextmanager
def server(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Start a server that passes each connection to `serve` in a thread; yield its port."""

    class Connection(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.settimeout(SECONDS)
            with suppress(OSError, EOFError):
                serve(self.request)

    with _Server(("127.0.0.1", 0), Connection) as listener:
        threading.Thread(target=listener.serve_forever, args=(0.02,), daemon=True).start()
        yield listener.server_address[1]
        listener.shutdown()


def connect(port: int) -> "closing[socket.socket]":
    return closing(socket.create_connection(("127.0.0.1", port), SECONDS))


def read_all(sock: socket.socket) -> bytes:
    """Read until the peer closes."""
    return b"".join(iter(lambda: sock.recv(65536), b""))


def read_exactly(sock: socket.socket, count: int) -> bytes:
    """Read an exact number of bytes.

    Raises:
        EOFError: the peer closed earlier.
    """
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data
