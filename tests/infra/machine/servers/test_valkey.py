"""Valkey keeps its keys across a stop, and every test has a separate database."""

import contextlib
import threading
from pathlib import Path

import pytest
from valkey import Valkey
from valkey.exceptions import AuthenticationError, TimeoutError

from tests.servers import ValkeyServer, running


def test_keys_survive_a_stop(valkey: ValkeyServer) -> None:
    url = valkey.database()
    with contextlib.closing(Valkey.from_url(url)) as client:
        client.set("quota", "7")
    valkey.stop()
    valkey.start()
    with (
        contextlib.closing(Valkey.from_url(url)) as again,
        contextlib.closing(Valkey.from_url(valkey.database())) as other,
    ):
        assert again.get("quota") == b"7"
        assert other.dbsize() == 0


def test_paused_server_responds_after_resume(valkey: ValkeyServer) -> None:
    with contextlib.closing(Valkey.from_url(valkey.database(), socket_timeout=0.5)) as client:
        valkey.pause()
        with pytest.raises(TimeoutError):
            client.ping()
        valkey.resume()
        assert client.ping()


def test_access_without_password_is_rejected(valkey: ValkeyServer) -> None:
    without = valkey.database().replace(valkey.database().split("@")[0], "valkey://")
    with contextlib.closing(Valkey.from_url(without)) as client, pytest.raises(AuthenticationError):
        client.ping()


def test_server_outlives_the_thread_of_its_restart(valkey: ValkeyServer) -> None:
    valkey.kill()
    thread = threading.Thread(target=valkey.start)
    thread.start()
    thread.join()
    with contextlib.closing(Valkey.from_url(valkey.database())) as client:
        assert client.ping()
    assert valkey.processes[0].is_running


def test_servers_are_stopped_after_a_failed_test(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), running(ValkeyServer(tmp_path)) as server:
        process = server.processes[0]
        raise ZeroDivisionError
    assert not process.is_running
