"""Kafka proxy: only responses to produce requests are dropped, and the broker has all requests."""

import socket
import struct
from collections.abc import Iterator

import pytest

from infra.simulate.faults.kafka import DropEffect, KafkaProxy
from infra.simulate.faults.proxy import Chance
from tests.infra.simulate.faults.peers import connect, read_exactly, server

PRODUCE, METADATA = 0, 3


class Broker:
    """Broker that responds with the correlation id and a body."""

    def __init__(self) -> None:
        self.requests: list[tuple[int, int]] = []

    def serve(self, sock: socket.socket) -> None:
        while True:
            (length,) = struct.unpack(">i", read_exactly(sock, 4))
            api_key, _, correlation_id = struct.unpack_from(">hhi", read_exactly(sock, length))
            self.requests.append((api_key, correlation_id))
            sock.sendall(struct.pack(">ii", 6, correlation_id) + b"ok")


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def port(broker: Broker) -> Iterator[int]:
    with server(broker.serve) as port:
        yield port


def ask(sock: socket.socket, api_key: int, correlation_id: int) -> None:
    body = struct.pack(">hhi", api_key, 9, correlation_id) + b"payload"
    sock.sendall(struct.pack(">i", len(body)) + body)


def answered(sock: socket.socket) -> int:
    length, correlation_id = struct.unpack(">ii", read_exactly(sock, 8))
    assert read_exactly(sock, length - 4) == b"ok"
    return int(correlation_id)


def test_without_faults_all_frames_pass(broker: Broker, port: int) -> None:
    with KafkaProxy(port) as proxy, connect(proxy.port) as sock:
        for number, api_key in enumerate((METADATA, PRODUCE, PRODUCE)):
            ask(sock, api_key, number)
            assert answered(sock) == number
    assert (
        proxy.counts["produce_requests"],
        proxy.counts["produce_responses"],
        proxy.counts["dropped"],
    ) == (2, 2, 0)
    assert broker.requests == [(METADATA, 0), (PRODUCE, 1), (PRODUCE, 2)]


def test_dropped_response_is_silent_and_later_frames_pass(broker: Broker, port: int) -> None:
    with KafkaProxy(port, then=DropEffect.SILENCE) as proxy, connect(proxy.port) as sock:
        proxy.chance = Chance(times=1)
        ask(sock, PRODUCE, 1)
        ask(sock, METADATA, 2)
        assert answered(sock) == 2
        ask(sock, PRODUCE, 3)
        assert answered(sock) == 3
    assert proxy.counts["dropped"] == 1
    assert [number for _, number in broker.requests] == [1, 2, 3]


def test_dropped_response_may_reset_after_the_request(broker: Broker, port: int) -> None:
    with KafkaProxy(port) as proxy, connect(proxy.port) as sock:
        proxy.chance = Chance(times=1)
        ask(sock, PRODUCE, 1)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert proxy.counts["dropped"] == 1
    assert broker.requests == [(PRODUCE, 1)]


def test_seeded_share_of_responses_is_dropped(port: int) -> None:
    with KafkaProxy(port, then=DropEffect.SILENCE) as proxy, connect(proxy.port) as sock:
        proxy.chance = Chance(0.1, seed=3)
        for number in range(300):
            ask(sock, PRODUCE, number)
        ask(sock, METADATA, 300)
        passed = []
        while (number := answered(sock)) != 300:
            passed.append(number)
    assert passed == sorted(set(passed))
    assert proxy.counts["dropped"] == 300 - len(passed)
    assert 10 < proxy.counts["dropped"] < 60


def test_invalid_frame_closes_the_connection(port: int) -> None:
    with KafkaProxy(port) as proxy, connect(proxy.port) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
