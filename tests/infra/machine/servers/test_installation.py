"""Missing or wrong parts are reported before a start; partial installations are never found."""

import hashlib
import queue
import re
from pathlib import Path

import pytest

from infra.install.environment import atomic_folder
from infra.machine.servers import installation
from infra.machine.servers.debian import unpack_packages
from infra.machine.servers.errors import ServerError
from infra.machine.servers.jars import check_jars, fetch_jars
from infra.machine.servers.steps import run_steps
from tests.support.errors import refused


def test_part_folders_are_named_after_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path))
    homes = [part.home for part in installation.parts(installation.locate())]
    assert len(set(homes)) == 5
    assert all(home.is_relative_to(tmp_path) for home in homes)


def test_missing_servers_are_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path))
    parts = installation.parts(installation.locate())
    with refused(
        ServerError, field=", ".join(part.home.name for part in parts), reason="MISSING"
    ) as caught:
        installation.find_installed()
    for words in (*(part.what for part in parts), "python -m infra.machine.servers install"):
        assert words in caught.value.text


def test_partial_installation_is_not_visible(tmp_path: Path) -> None:
    home = tmp_path / "cache" / "tool"
    with pytest.raises(KeyboardInterrupt), atomic_folder(home) as partial:
        (partial / "half").touch()
        raise KeyboardInterrupt
    assert not list(home.parent.iterdir())
    with atomic_folder(home) as partial:
        (partial / "whole").touch()
    assert [file.name for file in home.iterdir()] == ["whole"]


def test_unlisted_jars_are_rejected(tmp_path: Path) -> None:
    listed = tmp_path / "jars.sha256"
    listed.write_text("0" * 64 + "  changed.jar\n" + "0" * 64 + "  missing.jar\n")
    jars = tmp_path / "jars"
    jars.mkdir()
    for name in ("changed.jar", "unknown.jar"):
        (jars / name).write_text(name)
    wrong = "changed.jar, missing.jar, unknown.jar"
    with refused(ServerError, field=wrong, reason="MISMATCH", limit="jars.sha256"):
        check_jars(listed, jars)


def test_missing_maven_is_reported_with_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with refused(ServerError, field="mvn", reason="MISSING") as caught:
        fetch_jars(*installation.JARS, tmp_path)
    assert "apt-get install maven" in caught.value.text


def test_machine_without_debian_gets_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with refused(ServerError, field="apt-get", reason="MISSING") as caught:
        unpack_packages(installation.PROMETHEUS, tmp_path, installation.ADVICE)
    assert "THUMBWHEEL_PROMETHEUS" in caught.value.text


def test_users_bubblewrap_replaces_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THUMBWHEEL_BUBBLEWRAP", str(tmp_path / "bwrap"))
    with refused(ServerError, field="THUMBWHEEL_BUBBLEWRAP", reason="MISSING") as caught:
        installation.parts(installation.locate())
    assert str(tmp_path / "bwrap") in caught.value.text
    (tmp_path / "bwrap").touch()
    found = installation.locate()
    assert found.bubblewrap == tmp_path / "bwrap"
    assert not [part for part in installation.parts(found) if "bubblewrap" in part.what]


def test_package_with_wrong_hash_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, folder = "tool_1%3a2-3_amd64.deb", tmp_path / "unpacked"
    for tool in ("apt-get", "dpkg-deb"):
        (tmp_path / tool).write_text(
            f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\necho changed > {file}\n'
        )
        (tmp_path / tool).chmod(0o755)
    (tmp_path / "debian.sha256").write_text(f"{'0' * 64}  {file}\n")
    folder.mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    with refused(ServerError, field=file, reason="MISMATCH", limit="0" * 64) as caught:
        unpack_packages(tmp_path / "debian.sha256", folder, "Or not.")
    assert hashlib.sha256(b"changed\n").hexdigest() in caught.value.text
    # The version in the request contains a colon, which file names encode. No package was unpacked.
    assert (tmp_path / "asked").read_text().splitlines() == [
        "-o APT::Sandbox::User= download tool=1:2-3"
    ]


def test_failed_step_shows_its_output(tmp_path: Path) -> None:
    with refused(ServerError, field="fetching", reason="FAILED") as caught:
        run_steps("fetching", [["sh", "-c", "echo no network; exit 3"]], tmp_path)
    assert all(words in caught.value.text for words in ("3", "no network"))


def test_slow_step_is_killed(tmp_path: Path) -> None:
    with refused(ServerError, field="fetching", reason="TIMED_OUT", limit="0.1 s"):
        run_steps("fetching", [["sleep", "60"]], tmp_path, within_seconds=0.1)


@pytest.mark.parametrize(("download_folder", "megabytes"), [("repository", ["0"]), (None, [])])
def test_progress_shows_downloaded_size_only_for_downloads(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    download_folder: str | None,
    megabytes: list[str],
) -> None:
    monkeypatch.setattr(installation, "SAY_EVERY_SECONDS", 0.01)
    (tmp_path / "copied").write_bytes(bytes(2_000_000))
    part = installation.Part(tmp_path, "something", lambda _: None, download_folder)
    lines: queue.Queue[str] = queue.Queue()
    with installation.progress_messages(part.download_path(tmp_path), lines.put):
        assert re.findall(r"\d+", lines.get(timeout=20))[:-1] == megabytes, (
            "the last number is of seconds"
        )
