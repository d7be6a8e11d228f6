"""Layouts of the embedded run and the stack: the services accept the settings of their rows."""

import json
from pathlib import Path

import pytest

from infra.docs.settings import settings_class
from infra.machine.servers.fleet import assemble, choose_ports
from infra.run.embedded.layout import Layout, free_ports, programs
from infra.run.stack.layout import StackLayout, stack_ports
from infra.run.supervision.child import Program
from infra.run.supervision.ports import HOST
from infra.service_table import service_table
from services.chassis.settings import load_settings


def layouts(
    folder: Path, vllm_python: Path | None = None, *, external: bool = False
) -> list[Program]:
    """Return the programs of an embedded run and of a stack; `external`: without a model."""
    model, servers = folder / "model", folder / "stack" / "servers"
    for each in (model, *(servers / name for name in ("postgres", "valkey", "s3"))):
        each.mkdir(parents=True)
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
    (model / "config.json").write_text(json.dumps(shape | {"max_position_embeddings": 256}))
    embedded = Layout(folder / "embedded", free_ports())
    run = Layout(folder / "stack", stack_ports(0, 0), vllm_python)
    embedded.prepare()
    run.prepare()
    fleet = assemble(servers, choose_ports(servers, 1, usual=False), {})
    first = None if external else model
    return [*programs(embedded, first), *StackLayout(run, fleet).programs(first)]


def test_services_accept_the_settings_of_both_layouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`load_settings` refuses unknown names, missing values and values outside their limits."""
    found = layouts(tmp_path)
    table = service_table()
    assert len(found) == len(table.services) + 2 * len(table.grpc) + 1
    for program in found:
        with monkeypatch.context() as environment:
            for name, value in program.environment.items():
                environment.setenv(name, value)
            load_settings(settings_class(program.name.split("-")[0]))


def test_services_in_front_of_an_external_model_accept_their_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"url": "https://a.example/v1", "model": "m", "developer": "d", "licence": "l"}
    monkeypatch.setenv("TW_GENERATOR_EXTERNAL_MODELS", json.dumps({"main": model}))
    found = layouts(tmp_path, external=True)
    assert len(found) == 3 * len(service_table().grpc)
    for program in found:
        with monkeypatch.context() as environment:
            for name, value in program.environment.items():
                environment.setenv(name, value)
            load_settings(settings_class(program.name.split("-")[0]))


def test_replicas_of_the_stack_have_ports_and_spools_of_their_own(tmp_path: Path) -> None:
    stack = [program for program in layouts(tmp_path) if "-" in program.name]
    own = [
        value
        for program in stack
        for name, value in program.environment.items()
        if name.endswith(("_PORT", "_SPOOL_DIRECTORY"))
    ]
    assert len(own) == len(set(own))
    assert [program.name for program in stack if program.stops_first] == ["gateway-1", "gateway-2"]


def test_replicas_of_the_stack_share_one_vllm(tmp_path: Path) -> None:
    found = layouts(tmp_path, tmp_path / "bin" / "python")
    (server,) = (program for program in found if program.name == "vllm")
    urls = {
        program.environment["TW_GENERATOR_PREDICTOR_URL"]
        for program in found
        if program.name in ("generator-1", "generator-2")
    }
    assert urls == {f"http://{HOST}:{server.port}"}
