"""Fail if a pod outside the release gets an answer from a given port.

Usage: stranger.py [--policies] NAME=HOST:PORT ...

With --policies, network policies must refuse the connection itself. Without it, a connection may
open, but a gRPC server must not answer without a certificate.
"""

import argparse
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SECONDS = 3.0
# A client without a connection reports these codes; a server that answers reports others.
UNANSWERED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", action="store_true", help="connections must be refused")
    parser.add_argument("services", nargs="+", help="NAME=HOST:PORT")
    options = parser.parse_args()
    with ThreadPoolExecutor(len(options.services)) as threads:
        failures = [
            failure
            for found in threads.map(partial(check, policies=options.policies), options.services)
            for failure in found
        ]
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    return 1 if failures else 0


def check(given: str, *, policies: bool) -> list[str]:
    """Return the failures of all addresses of a service."""
    name, _, target = given.partition("=")
    host, _, port = target.rpartition(":")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except OSError as error:
        # A pod without any network would prove nothing.
        return [f"{name}: {host} does not resolve in this pod, so nothing was tested: {error}"]
    failures = []
    for family, _, _, _, address in found:
        if not connects(family, address):
            result = "no connection"
        elif policies:
            result = "connected"
            failures.append(
                f"{name}: {address[0]}:{port} accepts connections of foreign pods; the network "
                "plugin does not enforce network policies"
            )
        elif result := answered(str(address[0]), int(port)):
            failures.append(
                f"{name}: {address[0]}:{port} answered {result} without a certificate; set "
                "tls.mode or networkPolicies.enabled"
            )
        print(f"{name} {address[0]}:{port}: {result or 'no answer'}", flush=True)
    return failures


def connects(family: int, address: object) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(SECONDS)
        return connection.connect_ex(address) == 0  # type: ignore[arg-type]


def answered(host: str, port: int) -> str:
    """Return the status of a health check in plaintext; "" for no answer."""
    kind = "ipv6" if ":" in host else "ipv4"
    with grpc.insecure_channel(f"{kind}:{f'[{host}]' if ':' in host else host}:{port}") as channel:
        check_health = health_pb2_grpc.HealthStub(channel).Check
        try:
            found = check_health(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        except grpc.RpcError as error:
            return "" if error.code() in UNANSWERED else str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(found.status))


if __name__ == "__main__":
    sys.exit(main())
