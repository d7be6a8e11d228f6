"""`infra.machine.servers up`: five real servers in a terminal, and no traces afterwards."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from infra.machine.servers.errors import ServerError
from infra.machine.servers.fleet import choose_ports
from infra.run.supervision.ports import distinct_free_ports
from tests.support.errors import refused

ROOT = Path(__file__).resolve().parents[4]


def processes_of(state: Path) -> list[str]:
    """Return the command lines that contain the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # the process has ended meanwhile
            continue
        if str(state) in command and process.name != str(os.getpid()):
            found.append(command)
    return found


@pytest.mark.slow
def test_servers_start_respond_and_leave_no_processes(tmp_path: Path) -> None:
    state = tmp_path / "state"
    usual = choose_ports(state, brokers=1)
    ports = dict(
        zip(usual, distinct_free_ports(len(usual)), strict=True)
    )  # next to other running systems
    (state / "ports.json").write_text(json.dumps(ports))
    command = [sys.executable, "-m", "infra.machine.servers", "up", "--state", str(state)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as supervisor:
        assert supervisor.stdout
        lines = []
        try:
            for line in supervisor.stdout:
                lines.append(line)
                if "all servers are ready" in line:
                    break
            assert "ready" in lines[-1], lines
            query = f"http://127.0.0.1:{ports['prometheus']}/api/v1/status/config"
            with urllib.request.urlopen(query, timeout=10) as answer:
                assert json.load(answer)["status"] == "success"
            query = f"http://127.0.0.1:{ports['prometheus']}/api/v1/rules"
            with urllib.request.urlopen(query, timeout=10) as answer:
                groups = [group["name"] for group in json.load(answer)["data"]["groups"]]
            assert groups == ["chat", "feedback", "models", "review", "training"]
        finally:
            supervisor.send_signal(signal.SIGINT)
            supervisor.stdout.read()
    assert supervisor.returncode == 0
    assert not processes_of(state)
    assert not list(Path("/tmp").glob(f"seaweedfs-*-{ports['s3']}.sock"))
    assert {file.stem for file in (state / "logs").iterdir()} == {
        "kafka",
        "postgres",
        "valkey",
        "seaweedfs",
        "prometheus",
    }


def test_folder_keeps_its_ports_and_number_of_brokers(tmp_path: Path) -> None:
    state = tmp_path / "state"
    ports = choose_ports(state, brokers=3)
    assert choose_ports(state, brokers=3) == ports
    assert len(set(ports.values())) == len(ports)
    with refused(ServerError, field="brokers", reason="MISMATCH", limit="3"):
        choose_ports(state, brokers=1)


def test_port_in_use_is_reported_before_the_start(tmp_path: Path) -> None:
    state = tmp_path / "state"
    ports = choose_ports(state, brokers=1)
    with (
        socket.create_server(("127.0.0.1", ports["s3-filer"])),
        refused(ServerError, field="s3-filer", reason="IN_USE") as caught,
    ):
        choose_ports(state, brokers=1)
    assert str(ports["s3-filer"]) in caught.value.text
