"""A door from this machine into the cluster: it listens out here, on a socket that it is born with,
and connects in there.

`python -m infra.deploy.doorway FD FILE PORT` runs in the cluster's namespaces and so ends with the
cluster. Sockets stay in the network that they were made in, whoever holds them. The file says where
it leads: to another address when a release was made anew.
"""

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from infra.cluster import lifecycle
from infra.deploy.inside import Inside

CHUNK_BYTES = 65_536


def open_door(inside: Inside, port: int, address: str, inner_port: int) -> int:
    """Lets 127.0.0.1:port lead to an address in there, until the cluster ends; 0 picks a free port.
    Returns the port: that of the door which leads to this inner port already, if there is one.

    Raises:
        OSError: the port is taken.
        ClusterError: no cluster runs.
    """
    leads_to = inside.layout.state / f"door-{inner_port}.address"
    partial = leads_to.with_suffix(".partial")
    partial.write_text(address)
    partial.replace(leads_to)
    note = inside.layout.state / f"door-{inner_port}.port"
    if note.exists():  # open since the last time: it lives as long as this folder
        return int(note.read_text())
    listener = socket.create_server(("127.0.0.1", port))
    descriptor = listener.fileno()
    command = [
        sys.executable,
        "-m",
        "infra.deploy.doorway",
        str(descriptor),
        str(leads_to),
        str(inner_port),
    ]
    with (inside.layout.logs / f"door-{inner_port}.log").open("ab") as log:
        door = subprocess.Popen(
            inside.command(command),
            env=lifecycle.user_environment(inside.layout, inside.tools),
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    door.returncode = (
        0  # it ends with the cluster; Python would complain that nobody has waited for it
    )
    with listener:
        bound = int(listener.getsockname()[1])
    note.write_text(str(bound))
    return bound


async def serve(listener: socket.socket, leads_to: Callable[[], str], port: int) -> None:
    """Pass on what comes, both ways, for ever, to where it leads when somebody comes."""

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection(leads_to(), port)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
        finally:
            inner_writer.close()
            writer.close()

    async with await asyncio.start_server(pass_on, sock=listener) as server:
        await server.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the one end has said all, which the other end is told."""
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


if __name__ == "__main__":
    asyncio.run(
        serve(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]).read_text, int(sys.argv[3]))
    )
