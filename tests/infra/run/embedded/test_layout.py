"""Ports and settings of an embedded run."""

import json
import socket
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from infra.install.small_model.installation import link_model
from infra.run.embedded import __main__ as embedded
from infra.run.embedded.context_window import context_tokens, reply_tokens
from infra.run.embedded.layout import (
    UNLIMITED_QUOTAS,
    Layout,
    PublicPortError,
    choose_ports,
    free_ports,
    model_server,
    programs,
    service_settings,
)
from infra.run.stack import __main__ as stack
from infra.run.supervision.ports import free_port
from infra.run.supervision.secret_file import ForeignFileError
from infra.run.vllm_server.settings import VllmServerSettings
from infra.service_table import service_table
from services.chassis.identity_keys import read_public_keys
from services.chassis.settings import load_settings
from services.generator.settings import GeneratorSettings
from services.predictor.settings import PredictorSettings
from services.session.settings import SessionSettings
from tests.support.errors import refused


def test_public_port_in_use_is_reported_with_its_variable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with refused(PublicPortError, field="PORT", reason="IN_USE") as caught:
            choose_ports(taken.getsockname()[1], 0)
        assert str(taken.getsockname()[1]) in caught.value.text
        with refused(PublicPortError, field="GRPC_PORT", reason="IN_USE"):
            choose_ports(0, taken.getsockname()[1])


@pytest.mark.parametrize("port", [-1, 65_536, 99_999])
def test_port_out_of_range_is_reported_with_variable_and_limit(port: int) -> None:
    for ports, variable in (((port, 0), "PORT"), ((0, port), "GRPC_PORT")):
        with refused(PublicPortError, field=variable, reason="OUT_OF_RANGE") as caught:
            choose_ports(*ports)
        assert str(port) in caught.value.text and "65535" in caught.value.text


def test_free_ports_are_distinct() -> None:
    ports = free_ports()
    assert len(set(ports.values())) == len(ports)
    assert set(choose_ports(free_port(), free_port())) == set(ports)


def test_systems_that_start_together_have_different_internal_ports(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        usual = {"session": free.getsockname()[1]}
    monkeypatch.setattr("infra.run.embedded.layout.usual_ports", lambda: usual)
    first, second = (choose_ports(free_port(), free_port())["session"] for _ in range(2))
    assert first == usual["session"]
    assert second != first


# Keys and values of 128 KiB a token, as those of Llama 3.1 8B.
SHAPE = {
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
}


def made(tmp_path: Path) -> tuple[Layout, Path]:
    """Create a layout and a model for the layout."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(SHAPE | {"max_position_embeddings": 256}))
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


def test_generator_and_model_server_share_a_key_that_only_the_owner_can_read(
    tmp_path: Path,
) -> None:
    layout, model = made(tmp_path)
    settings = service_settings(layout, model)
    keys = {
        name: own["model_server_key"] for name, own in settings.items() if "model_server_key" in own
    }
    assert set(keys) == {"generator", "predictor"}
    assert len(set(keys.values())) == 1
    assert (layout.state / "model-server.key").stat().st_mode & 0o077 == 0


def test_old_state_folder_gets_master_key_for_feedback_only(
    tmp_path: Path,
) -> None:
    layout, model = made(tmp_path)
    first, again = (service_settings(layout, model) for _ in range(2))
    assert first["feedback"]["master_key"] == again["feedback"]["master_key"]
    assert len(bytes.fromhex(str(first["feedback"]["master_key"]))) == 32
    assert [name for name, settings in first.items() if "master_key" in settings] == ["feedback"]
    assert (layout.state / "master.key").stat().st_mode & 0o077 == 0


def test_internal_services_require_tokens_and_each_caller_has_its_own_key(tmp_path: Path) -> None:
    layout, model = made(tmp_path)
    settings = service_settings(layout, model)
    receivers = {name for name, own in settings.items() if "identity_keys" in own}
    assert receivers == {service.name for service in service_table().internal}
    signing = {name: own["identity_key"] for name, own in settings.items() if "identity_key" in own}
    assert set(signing) == {"gateway", "generator", "review", "session"}
    public = read_public_keys(layout.identity_keys())
    assert sorted(key.caller for key in public.values()) == [
        "gateway",
        "generator",
        "operator",
        "review",
        "session",
        "training",
    ]
    again = service_settings(layout, model)
    assert again == settings
    assert read_public_keys(layout.identity_keys()) == public


def test_existing_state_becomes_private_at_the_start(tmp_path: Path) -> None:
    """S-33: conversations and logs were readable by every account of the machine."""
    state = tmp_path / "state"
    database, log, program = state / "sessions.db", state / "logs" / "a.log", state / "run.sh"
    log.parent.mkdir(parents=True)
    outside = tmp_path / "outside"
    for file in (database, log, program, outside):
        file.touch()
        file.chmod(0o755 if file == program else 0o644)
    (state / "link").symlink_to(outside)
    Layout(state, {}).prepare()
    modes = {path.stat().st_mode & 0o777 for path in (state, log.parent, program)}
    assert modes == {0o700}
    assert {file.stat().st_mode & 0o777 for file in (database, log)} == {0o600}
    assert outside.stat().st_mode & 0o777 == 0o644


def test_a_linked_model_keeps_the_permissions_of_its_own_folder(tmp_path: Path) -> None:
    """Pods and other users of the machine could no longer read a model that `make up` served."""
    source, layout = tmp_path / "source", Layout(tmp_path / "state", {})
    source.mkdir()
    for name in ("config.json", "manifest.json"):
        (source / name).touch()
        (source / name).chmod(0o644)
    link_model(source, layout.models / "llama-0")
    own = layout.models / "registry.json"
    conversations = layout.state / "sessions.db"
    own.touch(mode=0o644)
    # Only files of models are expected to have names elsewhere.
    conversations.hardlink_to(own)
    layout.prepare()
    assert {file.stat().st_mode & 0o777 for file in source.iterdir()} == {0o644}
    assert conversations.stat().st_mode & 0o777 == 0o600
    assert layout.models.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("command", [embedded, stack])
def test_file_of_another_user_is_named_and_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: ModuleType
) -> None:
    (tmp_path / "logs").mkdir(mode=0o700)
    file = tmp_path / "logs" / "a.log"
    file.touch()
    file.chmod(0o644)
    chmod = Path.chmod

    def refuse(path: Path, mode: int) -> None:
        if path == file:
            raise PermissionError(1, "Operation not permitted", str(path))
        chmod(path, mode)

    monkeypatch.setattr(Path, "chmod", refuse)
    with refused(ForeignFileError, field=str(file), reason="FOREIGN_OWNER") as caught:
        Layout(tmp_path, {}).prepare()
    assert str(file) in caught.value.text
    assert isinstance(caught.value, command.EXPECTED_ERRORS)


@pytest.mark.parametrize(
    ("positions", "gpu_gib", "window", "reply"),
    [
        (256, 0, 256, 64),
        (131_072, 0, 8192, 2048),
        # .45 of the memory, less 1.5 GiB, halved, at 128 KiB a token.
        (131_072, 40, (18 - 1.5) / 2 * 8192, 4096),
        (32_768, 80, 32_768, 4096),
        (131_072, 4, 8192, 2048),
    ],
)
def test_context_window_is_that_of_the_model_within_the_memory_of_the_device(
    tmp_path: Path, positions: int, gpu_gib: int, window: float, reply: int
) -> None:
    config = SHAPE | {"max_position_embeddings": positions}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = context_tokens(tmp_path, gpu_gib * 2**30)
    assert (found, reply_tokens(found)) == (window, reply)


def test_memory_of_weights_is_not_for_contexts(tmp_path: Path) -> None:
    config = SHAPE | {"max_position_embeddings": 131_072}
    (tmp_path / "config.json").write_text(json.dumps(config))
    whole = context_tokens(tmp_path, 40 * 2**30)
    with (tmp_path / "model.safetensors").open("wb") as sparse:
        sparse.truncate(8 * 2**30)
    assert context_tokens(tmp_path, 40 * 2**30) == whole - 4 * 8192


def test_one_window_reaches_all_that_need_it(tmp_path: Path) -> None:
    layout, model = made(tmp_path)
    config = SHAPE | {"max_position_embeddings": 32_768}
    (model / "config.json").write_text(json.dumps(config))
    settings = service_settings(layout, model)
    assert settings["session"]["context_tokens"] == 8192
    replies = {settings[name]["reply_tokens"] for name in ("session", "generator")}
    assert replies == {settings["gateway"]["quota_reply_tokens"]} == {2048}
    predictor = PredictorSettings.model_validate({"model_server_key": "x" * 16})
    assert predictor.kv_blocks * 32 >= 2 * 8192
    vllm = model_server(replace(layout, vllm_python=tmp_path), settings["predictor"], model)[
        0
    ].environment
    assert vllm["TW_VLLM_SERVER_MAX_MODEL_LEN"] == "8192"
    assert vllm["TW_VLLM_SERVER_KV_GIGABYTES"] == "1"


def test_quotas_are_those_of_the_services_unless_switched_off(tmp_path: Path) -> None:
    layout, model = made(tmp_path)
    quotas = [name for names in UNLIMITED_QUOTAS.values() for name in names]
    settings = service_settings(layout, model)
    assert not {name for own in settings.values() for name in own if name in quotas}
    settings = service_settings(replace(layout, without_quotas=True), model)
    for service, limits in UNLIMITED_QUOTAS.items():
        assert {name: settings[service][name] for name in limits} == dict.fromkeys(limits, 0)


@pytest.mark.parametrize("program", [embedded, stack])
def test_quotas_are_switched_off_by_an_option_of_the_commands(program: ModuleType) -> None:
    assert program.parse(["up", "--without-quotas"]).without_quotas
    assert not program.parse(["up"]).without_quotas


def test_vllm_takes_the_place_of_the_predictor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, model = made(tmp_path)
    python = tmp_path / "bin" / "python"
    by_predictor, by_vllm = (
        programs(layout, model),
        programs(replace(layout, vllm_python=python), model),
    )
    names = {program.name for program in by_predictor}
    assert {program.name for program in by_vllm} == names - {"predictor"} | {"vllm"}
    (server,) = (program for program in by_vllm if program.name == "vllm")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    settings = load_settings(VllmServerSettings)
    (predictor,) = (program for program in by_predictor if program.name == "predictor")
    assert server.port == settings.port == predictor.port
    key = settings.model_server_key.get_secret_value()
    assert key == predictor.environment["TW_PREDICTOR_MODEL_SERVER_KEY"]
    assert (settings.python, settings.max_model_len) == (python, 256)


def test_an_external_model_needs_neither_model_server_nor_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TW_SESSION_TOKENIZER_FILE", raising=False)
    layout, _ = made(tmp_path)
    started = {one.name: one.environment for one in programs(layout, None)}
    assert started.keys() == set(service_table().names) - {"predictor"}
    model = {"url": "https://a.example/v1", "model": "m", "developer": "d", "licence": "l"}
    variables = {"TW_GENERATOR_EXTERNAL_MODELS": json.dumps({"rival": model})}
    for name, value in {**started["generator"], **started["session"], **variables}.items():
        monkeypatch.setenv(name, value)
    assert load_settings(GeneratorSettings).stable_external() == "external.rival"
    assert load_settings(SessionSettings).count_bytes
    # A published tokenizer counts exactly.
    monkeypatch.delenv("TW_SESSION_COUNT_BYTES")
    monkeypatch.setenv("TW_SESSION_TOKENIZER_FILE", str(tmp_path / "tokenizer.json"))
    assert "count_bytes" not in service_settings(layout, None)["session"]
