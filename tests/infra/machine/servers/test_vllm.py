"""Environment and command of vLLM, without a start."""

from pathlib import Path

import pytest

from infra.machine.servers import vllm
from infra.machine.servers.errors import ServerError
from infra.machine.servers.vllm import (
    BUILD_VARIABLE,
    BUILDS,
    CPU,
    GPU,
    PYTHON_VARIABLE,
    Vllm,
)
from infra.run.supervision.ports import HOST
from tests.support.errors import refused
from training.serving.vllm_command import KEY_VARIABLE


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the defaults, whatever this machine sets."""
    monkeypatch.delenv(BUILD_VARIABLE, raising=False)
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_missing_vllm_is_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: vllm.Build
) -> None:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path))
    monkeypatch.setenv(BUILD_VARIABLE, build.name)
    with refused(ServerError, field=vllm.part(build).home.name, reason="MISSING") as caught:
        vllm.find_installed()
    assert build.install_command in caught.value.text


def test_builds_have_environments_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert vllm.chosen_build() == CPU
    assert vllm.part(CPU).home != vllm.part(GPU).home
    monkeypatch.setenv(BUILD_VARIABLE, "rocm")
    with refused(ServerError, field=BUILD_VARIABLE, reason="UNKNOWN", limit="vllm, vllm-gpu"):
        vllm.chosen_build()


def test_python_of_another_vllm_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/g++")
    python = tmp_path / "python"
    monkeypatch.setenv(PYTHON_VARIABLE, str(python))
    with refused(ServerError, field=PYTHON_VARIABLE, reason="MISSING"):
        vllm.find_installed()
    python.touch()
    assert vllm.find_installed() == python


def test_vllm_is_installed_once_without_resolving_its_requirements(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Path, tuple[str, ...]]] = []
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/g++")
    monkeypatch.setattr(
        vllm, "fill_environment", lambda _folder, lock, *options: calls.append((lock, options))
    )
    found = [vllm.install(lambda _: None) for _ in range(2)]
    assert calls == [(CPU.lock, ("--no-deps",))]
    assert found[0] == found[1] == vllm.part().home / "bin" / "python"


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    vllm.part().home.mkdir(parents=True)
    with refused(ServerError, field=vllm.COMPILER, reason="MISSING"):
        vllm.find_installed()


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_locks_have_the_torch_of_the_release_and_name_no_host(build: vllm.Build) -> None:
    lines = build.lock.read_text().splitlines()
    (torch,) = (line for line in lines if line.startswith("torch=="))
    assert torch.split()[0] == "torch==2.13.0", "the release of the wheel's own requirement"
    assert not [line for line in lines if "://" in line]


def test_the_key_is_not_on_the_command_line(tmp_path: Path) -> None:
    server = Vllm(tmp_path / "vllm", 12345, tmp_path / "model", "v1", arguments=("--seed=1",))
    (program,) = server.prepare(tmp_path / "bin" / "python")
    assert program.environment[KEY_VARIABLE] == server.key
    assert not [word for word in program.command if server.key in word]
    assert {f"--host={HOST}", "--port=12345", "--served-model-name=v1", "--seed=1"} < {
        *program.command
    }
