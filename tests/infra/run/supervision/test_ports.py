"""Ports are never assigned to two systems."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from infra.run.supervision import ports
from infra.run.supervision.ports import HOST, NoPortError, distinct_free_ports, is_free
from tests.support.errors import refused

ASK = """
from pathlib import Path
from infra.run.supervision import ports
ports._EPHEMERAL_RANGE = Path({range_file!r})
print(*ports.distinct_free_ports(200), flush=True)
input()
"""


def test_ports_are_distinct_and_free() -> None:
    found = distinct_free_ports(30)
    assert len(set(found)) == 30
    assert all(is_free(port) for port in found)
    assert max(found) < int(ports._EPHEMERAL_RANGE.read_text().split()[0])


def test_port_in_use_is_not_free() -> None:
    with socket.create_server((HOST, 0)) as taken:
        assert not is_free(taken.getsockname()[1])


def test_reserved_port_is_not_given_to_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow = tmp_path / "range"
    narrow.write_text(f"{ports.FIRST_PORT + 300}\t60999\n")
    monkeypatch.setattr(ports, "_EPHEMERAL_RANGE", narrow)
    ask = [sys.executable, "-c", ASK.format(range_file=str(narrow))]
    with subprocess.Popen(ask, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        promised = {int(word) for word in other.stdout.readline().split()}
        assert len(promised) == 200
        assert promised.isdisjoint(distinct_free_ports(20))
        with refused(
            NoPortError, reason="IN_USE", limit=f"{ports.FIRST_PORT} to {ports.FIRST_PORT + 300}"
        ):
            distinct_free_ports(200)
        other.communicate(b"\n")
    assert not promised.isdisjoint(distinct_free_ports(60))
