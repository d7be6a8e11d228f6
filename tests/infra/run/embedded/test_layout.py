"""Ports and settings of an embedded run."""

import json
import socket
from pathlib import Path

from infra.run.embedded.layout import (
    Layout,
    PortTakenError,
    choose_ports,
    context_tokens,
    free_ports,
    service_settings,
)
from infra.run.supervision.ports import free_port
from infra.service_table import service_table
from tests.support.errors import refused


def test_public_port_in_use_is_reported_with_its_variable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with refused(PortTakenError, field="PORT", reason="IN_USE") as caught:
            choose_ports(taken.getsockname()[1], 0)
        assert str(taken.getsockname()[1]) in caught.value.text
        with refused(PortTakenError, field="GRPC_PORT", reason="IN_USE"):
            choose_ports(0, taken.getsockname()[1])


def test_free_ports_are_distinct() -> None:
    ports = free_ports()
    assert len(set(ports.values())) == len(ports)
    assert set(choose_ports(free_port(), free_port())) == set(ports)


def made(tmp_path: Path) -> tuple[Layout, Path]:
    """Create a layout and a model for the layout."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"max_position_embeddings": 256}))
    layout = Layout(tmp_path / "state", free_ports())
    layout.prepare()
    return layout, model


def test_services_have_settings_and_share_the_principal_key(tmp_path: Path) -> None:
    layout, model = made(tmp_path)
    settings = service_settings(layout, model)
    assert set(settings) == set(service_table().names)
    keys = {own["principal_key"] for own in settings.values() if "principal_key" in own}
    assert len(keys) == 1
    assert (layout.state / "principal.key").stat().st_mode & 0o077 == 0


def test_old_state_folder_gets_master_key_for_feedback_only(
    tmp_path: Path,
) -> None:
    layout, model = made(tmp_path)
    first, again = (service_settings(layout, model) for _ in range(2))
    assert first["feedback"]["master_key"] == again["feedback"]["master_key"]
    assert len(bytes.fromhex(str(first["feedback"]["master_key"]))) == 32
    assert [name for name, settings in first.items() if "master_key" in settings] == ["feedback"]
    assert (layout.state / "master.key").stat().st_mode & 0o077 == 0


def test_context_length_is_bounded_for_cpus(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 131072}))
    assert context_tokens(tmp_path) == 2048
