"""The command that prints metrics of a container, against real metrics ports."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from infra.machine.images.catalogue import read_catalogue

ROOT = Path(__file__).resolve().parents[2]
AGE_SECONDS = 90


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Metrics port with one sample of each kind."""
    registry = CollectorRegistry()
    Counter("thumbwheel_calls_total", "", ["code"], registry=registry).labels("INTERNAL").inc(3)
    Gauge("thumbwheel_running", "", registry=registry).set(2)
    Histogram("thumbwheel_call_seconds", "", registry=registry).observe(0.5)
    read = Gauge("thumbwheel_read_time_seconds", "", ["stream"], registry=registry)
    read.labels("turns").set(time.time() - AGE_SECONDS)
    read.labels("never").set(0)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def metrics(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("TW_")}
    # Without a proxy that answers.
    proxies = {"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"}
    return subprocess.run(
        [sys.executable, "-S", "-m", "thumbwheel_cli.metrics", *words],
        cwd=ROOT,
        env={**kept, **proxies, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_samples_are_printed_without_buckets(port: int) -> None:
    done = metrics(TW_SESSION_METRICS_PORT=str(port))
    assert done.returncode == 0, done.stderr
    host = f"{socket.gethostname()}  "
    lines = [line.removeprefix(host) for line in done.stdout.splitlines()]
    assert all(line.startswith(host) for line in done.stdout.splitlines())
    assert 'thumbwheel_calls_total{code="INTERNAL"} 3.0' in lines
    assert "thumbwheel_running 2.0" in lines
    assert "thumbwheel_call_seconds_sum 0.5" in lines
    assert not [line for line in lines if "bucket" in line or "created" in line or "#" in line]


@pytest.mark.parametrize(
    ("pattern", "lines"),
    [("running$|running ", 1), ('calls_total.*"(INTERNAL|UNKNOWN)"', 1), ("call", 3)],
)
def test_pattern_selects_by_name_and_labels(port: int, pattern: str, lines: int) -> None:
    done = metrics(pattern, "--port", str(port))
    assert (done.returncode, len(done.stdout.splitlines())) == (0, lines), done.stdout


def test_age_follows_a_time_but_not_zero(port: int) -> None:
    done = metrics("read_time", "--port", str(port)).stdout
    (turns,) = [line for line in done.splitlines() if "turns" in line]
    age = float(turns.rpartition("(")[2].split()[0])
    assert AGE_SECONDS <= age < AGE_SECONDS + 300
    assert 'thumbwheel_read_time_seconds{stream="never"} 0.0\n' in done


def test_no_match_is_reported_and_no_error(port: int) -> None:
    done = metrics("absent", "--port", str(port))
    assert done.returncode == 0
    assert done.stdout.endswith("no metric matches absent\n")


def test_missing_port_and_silent_port_are_errors() -> None:
    without = metrics("running", CHAT_METRICS_PORT="9000")
    assert (without.returncode, without.stdout) == (2, "")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        number = taken.getsockname()[1]
        silent = metrics("running", TW_GATEWAY_METRICS_PORT=str(number))
    assert (silent.returncode, silent.stdout) == (1, "")
    assert str(number) in silent.stderr


@pytest.mark.parametrize("image", ["services", "predictor"])
def test_images_with_metrics_have_the_command(image: str) -> None:
    assert Path("thumbwheel_cli") in read_catalogue().images[image].paths
