"""Print metrics of the process in this container, for an operator without Prometheus.

Usage: `python3 -m thumbwheel_cli.metrics [PATTERN]` in a pod of a service or of the model server.
Every line begins with the name of the pod. Buckets of histograms are left out, and the age follows
a time. Only the standard library is used, because the images have no other library in common.
"""

import argparse
import http.client
import os
import re
import socket
import sys
import time
from collections.abc import Iterator, Mapping

PORT_SETTING = re.compile(r"TW_[A-Z]+_METRICS_PORT")
LEFT_OUT = re.compile(r"\w+_(bucket|created)[{ ]")
# Unix time of an event, as opposed to a duration such as `…_load_seconds`.
TIME = re.compile(r"\w+_time_seconds(\{.*\})? (?P<seconds>\S+)")
TIMEOUT_SECONDS = 10.0
HOST = "localhost"


def metrics_port(environment: Mapping[str, str]) -> int:
    """Return the metrics port in the settings of the service; 0 if it has none."""
    found = [value for name, value in environment.items() if PORT_SETTING.fullmatch(name)]
    return int(found[0]) if found else 0


def read_metrics(port: int) -> str:
    """Return the page of metrics in the text format of Prometheus.

    Proxies of the environment do not apply.

    Raises:
        OSError: the port does not answer.
        http.client.HTTPException: the answer is not HTTP, or its status is not 200.
    """
    connection = http.client.HTTPConnection(HOST, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise http.client.HTTPException(f"status {answer.status}")
        return answer.read().decode()
    finally:
        connection.close()


def matching_lines(page: str, pattern: re.Pattern[str], now: float) -> Iterator[str]:
    """Yield the samples that contain the pattern, in their name or their labels.

    Args:
        now: Unix time in seconds, from which ages are counted.
    """
    for line in page.splitlines():
        if line.startswith("#") or LEFT_OUT.match(line) or not pattern.search(line):
            continue
        found = TIME.fullmatch(line)
        is_set = found is not None and float(found["seconds"]) > 0
        yield f"{line}  ({now - float(found['seconds']):.0f} s ago)" if found and is_set else line


def main() -> int:
    """Print the lines. Returns 0, 1 if the port does not answer, or 2 without a port."""
    parser = argparse.ArgumentParser(
        prog="python3 -m thumbwheel_cli.metrics", description="Print metrics of this container."
    )
    parser.add_argument(
        "pattern", nargs="?", default="", help="regular expression for name or labels"
    )
    parser.add_argument("--port", type=int, help="metrics port (default: the service's setting)")
    options = parser.parse_args()
    port = options.port or metrics_port(os.environ)
    if not port:
        print("--port: no TW_…_METRICS_PORT in the environment", file=sys.stderr)
        return 2
    try:
        page = read_metrics(port)
    except (OSError, http.client.HTTPException) as error:
        print(f"{socket.gethostname()}  port {port} has no metrics: {error}", file=sys.stderr)
        return 1
    lines = list(matching_lines(page, re.compile(options.pattern), time.time()))
    for line in lines or [f"no metric matches {options.pattern}"]:
        print(f"{socket.gethostname()}  {line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
