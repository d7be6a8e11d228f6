"""Mutual TLS between the services of a whole system (finding S-11)."""

import runpy
import ssl
import sys
import threading
import time
from http.client import HTTPException
from pathlib import Path

import pytest

from infra.machine.certificates.authority import Authority
from infra.service_table import service_table
from tests.journeys.client import Client, finish_of
from tests.journeys.stack import WITHOUT_QUOTAS, Stack, running_stack
from tests.support.secret_volume import SecretVolume

SCRIPTS = Path(__file__).resolve().parents[2] / "charts" / "thumbwheel" / "files" / "tests"
STREAMS, REPLACED_SECONDS = 20, 60.0
# Clients compare their files every second.
NOTICED_SECONDS = 3.0
CONNECTION_AGE_SECONDS = 2.0


class Users:
    """Users that ask question after question until the end of the block."""

    def __init__(self, stack: Stack) -> None:
        self.answers = [0] * STREAMS
        self.failures: list[str] = []
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(number, Client(stack.http, key)))
            for number, key in enumerate(stack.make_keys("crowd", count=STREAMS))
        ]

    def __enter__(self) -> "Users":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_for_answers(self, count: int) -> None:
        """Wait until each user has got this number of answers more, or a call has failed."""
        wanted = [answers + count for answers in self.answers]
        while not self.failures and any(
            answers < least for answers, least in zip(self.answers, wanted, strict=True)
        ):
            time.sleep(0.05)

    def _ask(self, number: int, client: Client) -> None:
        while not self._over.is_set():
            try:
                finish = finish_of(client.ask("hello", sampling={"maxTokens": 16}))
                assert finish in ("FINISH_REASON_STOP", "FINISH_REASON_LENGTH")
            except (AssertionError, HTTPException, OSError, ValueError) as error:
                self.failures.append(f"user {number}: {error!r}")
                return
            self.answers[number] += 1


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_authority_is_replaced_while_answers_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = Authority.create(1), Authority.create(1)
    volumes = {}
    for service in service_table().grpc:
        volumes[service.name] = SecretVolume(tmp_path / service.name, service.name, old)
        variables = ("TLS_CERTIFICATE", "TLS_KEY", "TLS_AUTHORITY")
        for variable, file in zip(variables, volumes[service.name].files, strict=True):
            monkeypatch.setenv(f"TW_{service.name.upper()}_{variable}", str(file))
        # Certificates are compared when a connection opens.
        age = f"TW_{service.name.upper()}_CONNECTION_AGE_SECONDS"
        monkeypatch.setenv(age, str(CONNECTION_AGE_SECONDS))
    with running_stack(tmp_path / "state", options=WITHOUT_QUOTAS) as stack:
        ports = {each.name: stack.ports[each.name] for each in service_table().internal}
        with Users(stack) as users:
            users.wait_for_answers(1)
            # The order of docs/kubernetes.md. At the end, a client with its first certificate or
            # authority could open no connection.
            for issuer, trusted in ((old, (old, new)), (new, (old, new)), (new, (new,))):
                for volume in volumes.values():
                    volume.replace(issuer, *trusted)
                for name, port in ports.items():
                    wait_until_shown(port, volumes[name].files[0])
                time.sleep(NOTICED_SECONDS)
            time.sleep(2 * CONNECTION_AGE_SECONDS)
            users.wait_for_answers(2)
        assert users.failures == []
        words = [f"{name}=127.0.0.1:{port}" for name, port in ports.items()]
        monkeypatch.setattr(sys, "argv", ["stranger.py", *words])
        assert runpy.run_path(str(SCRIPTS / "stranger.py"))["main"]() == 0


def wait_until_shown(port: int, certificate: Path) -> None:
    """Wait until a server answers new connections with this certificate."""
    issued = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    end = time.monotonic() + REPLACED_SECONDS
    while issued != ssl.PEM_cert_to_DER_cert(
        ssl.get_server_certificate(("127.0.0.1", port), timeout=10)
    ):
        assert time.monotonic() < end, f"port {port} shows its former certificate"
        time.sleep(0.2)
