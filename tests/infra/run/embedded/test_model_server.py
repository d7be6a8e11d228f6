"""Choice of the model server, and the interpreter of vLLM that training gets from it."""

import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest

from infra.machine.servers import vllm
from infra.machine.servers.errors import ServerError
from infra.machine.servers.vllm import BUILD_VARIABLE, CPU, GPU
from infra.run.embedded import model_server
from infra.run.embedded.environment import loop_environment
from infra.run.embedded.model_server import ModelServer, add_server_option, find_vllm, record_vllm
from tests.support.errors import refused
from training.serving.vllm_command import PYTHON_VARIABLE, default_python


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the defaults and an empty cache, whatever this machine has."""
    for name in (BUILD_VARIABLE, vllm.PYTHON_VARIABLE, PYTHON_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(("has_driver", "build"), [(False, CPU), (True, GPU)])
def test_missing_vllm_is_refused_with_the_command_for_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_driver: bool, build: vllm.Build
) -> None:
    driver = tmp_path / "driver"
    if has_driver:
        driver.touch()
    monkeypatch.setattr(vllm, "NVIDIA_DRIVER", driver)
    assert find_vllm(ModelServer.PREDICTOR) is None
    with refused(ServerError, reason="MISSING") as caught:
        find_vllm(ModelServer.VLLM)
    assert build.install_command in caught.value.text
    assert vllm.uses_gpu() is has_driver
    monkeypatch.setenv(BUILD_VARIABLE, CPU.name)
    assert not vllm.uses_gpu()


def test_missing_packages_of_the_predictor_are_refused_only_where_it_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_server, "find_spec", lambda _: None)
    assert find_vllm(ModelServer.EXTERNAL) is None
    with refused(ServerError, field="server", reason="MISSING") as caught:
        find_vllm(ModelServer.PREDICTOR)
    assert "environment.py predictor" in caught.value.text


def test_an_unknown_model_server_is_refused_with_the_known_ones(
    capsys: pytest.CaptureFixture[str],
) -> None:
    parser = ArgumentParser()
    add_server_option(parser)
    assert parser.parse_args(["--server", "vllm"]).server is ModelServer.VLLM
    with pytest.raises(SystemExit):
        parser.parse_args(["--server", "vlm"])
    assert "'vlm' is not one of predictor, vllm" in capsys.readouterr().err


def test_training_uses_the_vllm_that_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    assert PYTHON_VARIABLE not in loop_environment(tmp_path)
    record_vllm(tmp_path, python)
    assert loop_environment(tmp_path)[PYTHON_VARIABLE] == str(python)
    monkeypatch.setenv(PYTHON_VARIABLE, "/opt/vllm/bin/python")
    assert loop_environment(tmp_path)[PYTHON_VARIABLE] == "/opt/vllm/bin/python"
    assert default_python() == Path("/opt/vllm/bin/python")
    monkeypatch.delenv(PYTHON_VARIABLE)
    assert default_python() == Path(sys.executable)
    record_vllm(tmp_path, None)
    assert PYTHON_VARIABLE not in loop_environment(tmp_path)
