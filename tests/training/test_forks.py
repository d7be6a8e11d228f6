"""A process with gRPC channels may start child processes; none is lost between fork and exec."""

import os
import subprocess
import sys

# Calls continuously, and forks like Ray: with a callback in the child, so by a real fork.
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
            stub = health_pb2_grpc.HealthStub(channel)
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
            began.set()

began = threading.Event()
threading.Thread(target=lambda: asyncio.run(call(began)), daemon=True).start()
began.wait(20)
for _ in range(20):
    started = subprocess.run([sys.executable, "-S", "-c", ""], preexec_fn=lambda: None, timeout=20)
    assert started.returncode == 0
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


def test_grpc_does_not_interfere_with_forks() -> None:
    assert told_while_forking("import training\n") == ""


def test_grpc_interferes_with_forks_if_fork_support_is_enabled() -> None:
    """Control experiment without the setting."""
    assert "fork() handlers" in told_while_forking("")
