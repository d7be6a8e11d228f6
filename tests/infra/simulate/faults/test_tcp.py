"""TCP proxy: unchanged bytes without faults, effect and count of each fault."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from infra.simulate.faults.proxy import Chance
from infra.simulate.faults.tcp import Fault, TcpFaults, TcpProxy, slices
from tests.infra.simulate.faults.peers import connect, read_all, read_exactly, server


def echo(sock: socket.socket) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)


@pytest.fixture
def proxy() -> Iterator[TcpProxy]:
    with server(echo) as port, TcpProxy(port) as proxy:
        yield proxy


def test_without_faults_bytes_and_end_of_stream_pass(proxy: TcpProxy) -> None:
    data = bytes(range(256)) * 4_000
    with connect(proxy.port) as sock:
        threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR))).start()
        assert read_all(sock) == data
    assert dict(proxy.counts) == {"connections": 1}


def test_latency_delays_every_chunk(proxy: TcpProxy) -> None:
    proxy.faults = TcpFaults(latency_seconds=0.1)
    with connect(proxy.port) as sock:
        began = time.monotonic()
        sock.sendall(b"ping")
        read_exactly(sock, 4)
    assert time.monotonic() - began >= 0.2
    assert proxy.counts[Fault.DELAYED] == 2


def test_bandwidth_is_limited(proxy: TcpProxy) -> None:
    proxy.faults = TcpFaults(bytes_per_second=100_000)
    with connect(proxy.port) as sock:
        began = time.monotonic()
        sock.sendall(bytes(20_000))
        read_exactly(sock, 20_000)
    assert time.monotonic() - began >= 0.2
    assert proxy.counts[Fault.PACED] >= 2


def test_slices_arrive_in_small_parts(proxy: TcpProxy) -> None:
    proxy.faults = TcpFaults(slice_bytes=3)
    with connect(proxy.port) as sock:
        sock.sendall(b"0123456789")
        assert read_exactly(sock, 10) == b"0123456789"
    assert proxy.counts[Fault.SLICED] >= 4
    assert list(slices(b"0123456789", 3)) == [b"012", b"345", b"678", b"9"]


def test_data_sent_during_silence_pass_afterwards(proxy: TcpProxy) -> None:
    with connect(proxy.port) as old:
        old.sendall(b"a")
        assert read_exactly(old, 1) == b"a"
        proxy.faults = TcpFaults(silent=True)
        old.sendall(b"b")
        with connect(proxy.port) as new:
            new.sendall(b"c")
            for sock in (old, new):
                sock.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    sock.recv(1)
                sock.settimeout(10)
            assert proxy.counts[Fault.SILENCED] == 2
            proxy.faults = TcpFaults()
            assert (read_exactly(old, 1), read_exactly(new, 1)) == (b"b", b"c")


def test_refused_connection_is_reset_and_the_next_passes(proxy: TcpProxy) -> None:
    proxy.faults = TcpFaults(refuse=True, chance=Chance(times=1))
    with pytest.raises(ConnectionResetError), connect(proxy.port) as sock:
        sock.recv(1)
    with connect(proxy.port) as sock:
        sock.sendall(b"a")
        assert read_exactly(sock, 1) == b"a"
    assert proxy.counts[Fault.REFUSED] == 1


@pytest.mark.parametrize("faults", [TcpFaults(reset_up_bytes=5), TcpFaults(reset_down_bytes=5)])
def test_connection_is_reset_after_the_byte_limit(proxy: TcpProxy, faults: TcpFaults) -> None:
    proxy.faults = faults
    with connect(proxy.port) as sock:
        sock.sendall(b"01234")
        assert read_exactly(sock, 5) == b"01234"
        sock.sendall(b"5")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert proxy.counts[Fault.RESET] == 1


def test_response_is_lost_after_the_request_arrived() -> None:
    arrived: list[bytes] = []

    def answer(sock: socket.socket) -> None:
        arrived.append(read_exactly(sock, 5))
        sock.sendall(b"done")

    with server(answer) as port, TcpProxy(port) as proxy:
        proxy.faults = TcpFaults(lose_answers=True)
        with connect(proxy.port) as sock:
            sock.sendall(b"do it")
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
    assert arrived == [b"do it"]
    assert proxy.counts[Fault.ANSWER_LOST] == 1


def test_unavailable_server_resets_the_client() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with (
            TcpProxy(unused.getsockname()[1]) as proxy,
            pytest.raises(ConnectionResetError),
            connect(proxy.port) as sock,
        ):
            sock.recv(1)


def test_exit_closes_every_connection() -> None:
    with server(echo) as port:
        with TcpProxy(port) as proxy:
            sock = socket.create_connection(("127.0.0.1", proxy.port), 10)
            sock.sendall(b"a")
            assert read_exactly(sock, 1) == b"a"
        with sock, pytest.raises(ConnectionResetError):
            sock.recv(1)
