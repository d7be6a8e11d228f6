"""Check that all services of a release answer, and with certificates only clients that have one.

Usage: health.py [--certificates FOLDER] [--public NAME=HOST:PORT] [--page URL] NAME=HOST:PORT ...
"""

import argparse
import sys
import urllib.request
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

START_SECONDS, REFUSAL_SECONDS = 20.0, 5.0
# A client without a connection reports these codes; a server that answers reports others.
UNANSWERED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--certificates", type=Path, help="folder with tls.crt, tls.key, ca.crt")
    parser.add_argument(
        "--public", action="append", default=[], help="NAME=HOST:PORT of a server without TLS"
    )
    parser.add_argument("--page", help="URL that must answer")
    parser.add_argument("services", nargs="*", help="NAME=HOST:PORT")
    # The chart gives services in the order of their names, so options are between positionals.
    options = parser.parse_intermixed_args()
    failures = []
    for given in (*options.public, *options.services):
        name, _, target = given.partition("=")
        folder = None if given in options.public else options.certificates
        failures += check_service(name, f"dns:///{target}", folder)
    if options.page:
        with urllib.request.urlopen(options.page, timeout=START_SECONDS) as page:  # noqa: S310
            print(f"{options.page}: {page.status}")
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    return 1 if failures else 0


def check_service(name: str, target: str, certificates: Path | None) -> list[str]:
    """Return the failures of a service; with certificates, calls without one must be refused."""
    own = credentials(certificates, certificate=True) if certificates else None
    failures = []
    if (result := answer(name, target, own, wait_for_ready=True)) != "SERVING":
        failures.append(f"{name}: expected SERVING, got {result or 'no answer'}")
    if certificates:
        strangers = {
            "plaintext": None,
            "TLS without a certificate": credentials(certificates, certificate=False),
        }
        for kind, other in strangers.items():
            if result := answer(name, target, other, wait_for_ready=False):
                failures.append(f"{name}: answered a call in {kind} with {result}")
    return failures


def credentials(folder: Path, *, certificate: bool) -> grpc.ChannelCredentials:
    """Return credentials with the authority of the release."""
    names = ("ca.crt", "tls.crt", "tls.key")
    authority, chain, key = ((folder / name).read_bytes() for name in names)
    if certificate:
        return grpc.ssl_channel_credentials(authority, key, chain)
    return grpc.ssl_channel_credentials(authority)


def answer(
    name: str, target: str, own: grpc.ChannelCredentials | None, *, wait_for_ready: bool
) -> str:
    """Return the health or the status code of the service's answer; "" for no answer."""
    options = [("grpc.ssl_target_name_override", f"{name}.thumbwheel")]
    channel = grpc.secure_channel(target, own, options) if own else grpc.insecure_channel(target)
    with channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        timeout = START_SECONDS if wait_for_ready else REFUSAL_SECONDS
        try:
            found = check(
                health_pb2.HealthCheckRequest(), timeout=timeout, wait_for_ready=wait_for_ready
            )
        except grpc.RpcError as error:
            result = "" if error.code() in UNANSWERED else error.code().name
        else:
            result = health_pb2.HealthCheckResponse.ServingStatus.Name(found.status)
    print(f"{name} {target} {'TLS' if own else 'plaintext'}: {result or 'no answer'}", flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
