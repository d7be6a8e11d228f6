"""Scripts of `helm test`, executed against real servers: an answer to a stranger is a failure."""

import runpy
import shutil
import socket
import sys
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from infra.machine.certificates.authority import issue_certificates
from infra.service_table import service_table
from tests.charts.rendering import CHART, pods, render

NAME = "session"


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Return a folder with the certificates of the server and of `helm test`, as mounted."""
    issued = tmp_path / "issued"
    issue_certificates(issued, (NAME, "test-health"), 1)
    for name in (NAME, "test-health"):
        (tmp_path / name).mkdir()
        shutil.copy(issued / f"{name}.pem", tmp_path / name / "tls.crt")
        shutil.copy(issued / f"{name}.key", tmp_path / name / "tls.key")
        shutil.copy(issued / "authority.pem", tmp_path / name / "ca.crt")
    return tmp_path


@contextmanager
def server(secrets: Path, *, tls: bool, client_certificates: bool = True) -> Iterator[str]:
    """Run a server with a health service; yields NAME=HOST:PORT."""
    running = grpc.server(futures.ThreadPoolExecutor(4))
    checks = health.HealthServicer()
    checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, running)
    folder = secrets / NAME
    if tls:
        pair = ((folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes())
        authority = (folder / "ca.crt").read_bytes()
        credentials = grpc.ssl_server_credentials([pair], authority, client_certificates)
        port = running.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    try:
        yield f"{NAME}=127.0.0.1:{port}"
    finally:
        running.stop(0).wait()


def run(monkeypatch: pytest.MonkeyPatch, script: str, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", [script, *words])
    return int(runpy.run_path(str(CHART / "files" / "tests" / script))["main"]())


def test_health_passes_if_only_clients_with_a_certificate_get_an_answer(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(secrets, tls=True) as inner, server(secrets, tls=False) as public:
        own = f"--certificates={secrets / 'test-health'}"
        # The order of the chart: the gateway is between services of other names.
        assert run(monkeypatch, "health.py", own, inner, f"--public={public}", inner) == 0


def test_health_checks_every_service_with_the_arguments_of_the_chart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = pods(render("evaluation-values.yaml", "tls.mode=secrets"))["test-health/Job"]
    _, *words = job["spec"]["containers"][0]["args"]
    checked: dict[str, Path | None] = {}

    def check_service(name: str, target: str, certificates: Path | None) -> list[str]:
        assert target.startswith(f"dns:///tw-thumbwheel-{name}:")
        checked[name] = certificates
        return []

    main = runpy.run_path(str(CHART / "files" / "tests" / "health.py"))["main"]
    monkeypatch.setitem(main.__globals__, "check_service", check_service)
    # No page listens here.
    arguments = [word for word in words if not word.startswith("--page=")]
    monkeypatch.setattr(sys, "argv", ["-c", *arguments])
    assert main() == 0
    assert checked == {
        service.name: None if service.http else Path("/tls") for service in service_table().grpc
    }


def test_health_fails_if_a_server_requires_no_client_certificate(
    secrets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(secrets, tls=True, client_certificates=False) as inner:
        assert run(monkeypatch, "health.py", f"--certificates={secrets / 'test-health'}", inner)
    assert [line.split()[:2] for line in capsys.readouterr().err.splitlines()] == [
        ["FAILED", "session:"]
    ]


def test_health_of_a_release_without_certificates_is_checked_in_plaintext(
    secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(secrets, tls=False) as inner:
        assert run(monkeypatch, "health.py", inner) == 0


@pytest.mark.parametrize(
    ("policies", "tls", "status"),
    [(False, True, 0), (False, False, 1), (True, True, 1), (True, False, 1)],
)
def test_stranger_fails_on_connections_despite_policies_and_on_answers_without_them(
    secrets: Path, monkeypatch: pytest.MonkeyPatch, policies: bool, tls: bool, status: int
) -> None:
    with server(secrets, tls=tls) as inner:
        words = ["--policies"] if policies else []
        assert run(monkeypatch, "stranger.py", *words, inner) == status


def test_stranger_passes_if_no_port_accepts_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unopened:
        unopened.bind(("127.0.0.1", 0))  # without listen: connections are refused
        port = unopened.getsockname()[1]
        assert run(monkeypatch, "stranger.py", "--policies", f"{NAME}=127.0.0.1:{port}") == 0


def test_stranger_fails_without_name_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "stranger.py", "--policies", f"{NAME}=nowhere.invalid:50054") == 1
