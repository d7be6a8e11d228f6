"""Parts of a cluster: folders named after locks, and errors with the command to install."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from infra.machine.cluster import installation
from infra.machine.cluster.errors import ClusterError
from infra.machine.servers.errors import ServerError
from tests.support.errors import refused


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path))
    return tmp_path


def test_parts_have_distinct_cache_folders(empty_cache: Path) -> None:
    homes = [part.home for part in installation.parts(installation.locate())]
    assert len(set(homes)) == 6
    assert all(home.is_relative_to(empty_cache) for home in homes)


def test_missing_parts_are_named_with_the_command() -> None:
    parts = installation.parts(installation.locate())
    with refused(
        ServerError, field=", ".join(part.home.name for part in parts), reason="MISSING"
    ) as caught:
        installation.find_installed()
    for words in (*(part.what for part in parts), "make cluster"):
        assert words in caught.value.text


def test_small_disk_prevents_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    messages: list[str] = []
    with refused(ClusterError, reason="TOO_SMALL", limit="at least 6 GB"):
        installation.install(messages.append)
    assert not messages


def test_path_prefers_programs_of_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    tools = installation.locate()
    (tools.debian / "usr" / "lib" / "x86_64-linux-gnu").mkdir(parents=True)
    found = tools.environment
    assert found["PATH"].split(":")[0] == str(tools.clients)
    assert found["PATH"].split(":")[-1] == "/usr/bin"
    assert found["LD_LIBRARY_PATH"] == str(tools.debian / "usr" / "lib" / "x86_64-linux-gnu")


def test_debian_lock_lists_each_package_once_with_hash() -> None:
    lines = [line.split() for line in installation.DEBIAN.read_text().splitlines()]
    names = [file.split("_")[0] for _, file in lines]
    assert {"containerd", "runc", "containernetworking-plugins", "nftables", "iproute2"} < set(
        names
    )
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256, _ in lines)


def test_image_names_match_the_configuration() -> None:
    assert [installation.reference_of(family) for family in installation.IMAGES] == [
        "localhost/coredns:1",
        "localhost/pause:1",
    ]
