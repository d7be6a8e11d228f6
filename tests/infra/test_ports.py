"""Ports that two systems cannot both be given."""

import socket
import subprocess
import sys

import pytest

from infra import ports
from infra.ports import NoPortError, is_free, reserve_ports

ASK = "from infra.ports import reserve_ports; print(*reserve_ports(200), flush=True); input()"


def test_ports_are_different_and_free() -> None:
    found = reserve_ports(30)
    assert len(set(found)) == 30
    assert all(is_free(port) for port in found)


def test_a_port_in_use_is_not_free() -> None:
    with socket.create_server((ports.HOST, 0)) as taken:
        assert not is_free(taken.getsockname()[1])


def test_what_one_process_was_promised_another_does_not_get_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "HIGHEST", ports.LOWEST + 300)
    narrow = ASK.replace("print", "from infra import ports; ports.HIGHEST = ports.LOWEST + 300; print")
    with subprocess.Popen([sys.executable, "-c", narrow], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        promised = {int(word) for word in other.stdout.readline().split()}
        assert len(promised) == 200
        assert promised.isdisjoint(reserve_ports(20))
        with pytest.raises(NoPortError):
            reserve_ports(200)
        other.communicate(b"\n")
    assert not promised.isdisjoint(reserve_ports(100))
