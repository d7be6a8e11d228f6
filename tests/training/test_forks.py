"""A process that calls services may start others: none of its children is lost between fork and
exec.
"""

import os
import subprocess
import sys

# Calls all the time, and forks as Ray does: with something to do in the child, so by a real fork.
BUSY = """
import asyncio, subprocess, sys, threading
import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

async def call(began):
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        while True:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
            began.set()

began = threading.Event()
threading.Thread(target=lambda: asyncio.run(call(began)), daemon=True).start()
began.wait(20)
for _ in range(20):
    assert subprocess.run([sys.executable, "-S", "-c", ""], preexec_fn=lambda: None, timeout=20).returncode == 0
"""


def told_while_forking(before: str) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("GRPC_")
    }
    done = subprocess.run(
        [sys.executable, "-c", before + BUSY],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stderr


def test_grpc_has_no_part_in_a_fork() -> None:
    assert told_while_forking("import training\n") == ""


def test_without_that_it_has() -> None:
    """The control."""
    assert "fork() handlers" in told_while_forking("")
