"""Ports for servers."""

from pathlib import Path

from infra.supervision.ports import distinct_free_ports, is_free


def test_ports_are_different_free_and_never_given_to_outgoing_connections() -> None:
    ports = distinct_free_ports(40)
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert len(set(ports)) == 40
    assert max(ports) < first_outgoing
    assert all(is_free(port) for port in ports)
