"""Choice of the Go toolchain: the machine's own if new enough, else the pinned wheel."""

from pathlib import Path

import pytest

from infra.machine.servers import go


def put_go(folder: Path, version: str) -> Path:
    """Create a program `go` that reports a version, alone on PATH."""
    folder.mkdir()
    program = folder / "go"
    program.write_text(f"#!/bin/sh\necho go version {version} linux/amd64\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("version", "is_new_enough"),
    [("go1.26.0", True), ("go2.0", True), ("go1.25.9", False), ("devel", False)],
)
def test_machine_go_is_used_if_new_enough(
    version: str, is_new_enough: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = put_go(tmp_path / "bin", version)
    monkeypatch.setenv("PATH", str(own.parent))
    assert go.machine_go() == (own if is_new_enough else None)


def test_go_is_installed_once_into_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed: list[Path] = []
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(go, "install_wheels", lambda lock, folder: installed.append(folder))
    found = [go.find_go(lambda _: None) for _ in range(2)]
    assert len(installed) == 1
    assert found[0] == found[1]
    assert found[0].is_relative_to(tmp_path / "cache")
