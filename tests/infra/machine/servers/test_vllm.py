"""Environment and command of vLLM, without a start."""

from pathlib import Path

import pytest

from infra.machine.servers import vllm
from infra.machine.servers.errors import ServerError
from infra.machine.servers.vllm import KEY_VARIABLE, LOCK, Vllm
from infra.run.supervision.ports import HOST
from tests.support.errors import refused


def test_missing_vllm_is_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path))
    with refused(ServerError, field=vllm.part().home.name, reason="MISSING") as caught:
        vllm.find_installed()
    assert vllm.INSTALL_COMMAND in caught.value.text


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
    assert calls == [(LOCK, ("--no-deps",))]
    assert found[0] == found[1] == vllm.part().home / "bin" / "python"


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    vllm.part().home.mkdir(parents=True)
    with refused(ServerError, field=vllm.COMPILER, reason="MISSING"):
        vllm.find_installed()


def test_the_lock_replaces_torch_and_names_no_host() -> None:
    lines = LOCK.read_text().splitlines()
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
