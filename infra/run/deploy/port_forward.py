"""Forwarding of a port on this machine to an address inside the cluster.

`python -m infra.run.deploy.port_forward FD FILE PORT` runs in the namespaces of the cluster and
ends with the cluster. The listening socket is inherited from a process outside: a socket stays in
the network namespace in which it was created. FILE contains the target address, which changes when
a release is reinstalled.
"""

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from infra.machine.cluster import lifecycle
from infra.run.deploy.cluster_shell import ClusterShell

CHUNK_BYTES = 65_536


def forward_port(
    shell: ClusterShell, port: int, address: str, inner_port: int, name: str = "public"
) -> int:
    """Forward 127.0.0.1:port to an address in the cluster, until the cluster ends.

    Args:
        port: port on this machine; 0 picks a free port.
        name: name of the target, which distinguishes targets with the same inner port.

    Returns the port. If the inner port of this target is already forwarded, return that port.

    Raises:
        OSError: the port is in use.
        ClusterError: no cluster is running.
    """
    target = shell.layout.state / f"{name}-{inner_port}.address"
    partial = target.with_suffix(".partial")
    partial.write_text(address)
    partial.replace(target)
    note = shell.layout.state / f"{name}-{inner_port}.port"
    if note.exists():  # An earlier call started the process, which lives as long as this folder.
        return int(note.read_text())
    listener = socket.create_server(("127.0.0.1", port))
    descriptor = listener.fileno()
    command = [
        sys.executable,
        "-m",
        "infra.run.deploy.port_forward",
        str(descriptor),
        str(target),
        str(inner_port),
    ]
    with (shell.layout.logs / f"{name}-{inner_port}.log").open("ab") as log:
        process = subprocess.Popen(
            shell.command(command),
            env=lifecycle.user_environment(shell.layout, shell.tools),
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    process.returncode = (
        # The process outlives this program; an exit code prevents Python's warning about a child
        # without a wait.
        0
    )
    with listener:
        bound = int(listener.getsockname()[1])
    note.write_text(str(bound))
    return bound


async def serve(listener: socket.socket, target: Callable[[], str], port: int) -> None:
    """Forward connections to the current target address until cancelled."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection(target(), port)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(_copy(reader, inner_writer), _copy(inner_reader, writer))
        finally:
            inner_writer.close()
            writer.close()

    async with await asyncio.start_server(forward, sock=listener) as server:
        await server.serve_forever()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy bytes until the end of the stream, then close the writing side."""
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
        writer.write_eof()


if __name__ == "__main__":
    asyncio.run(
        serve(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]).read_text, int(sys.argv[3]))
    )
