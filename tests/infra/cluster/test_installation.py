"""What a cluster is made of: each part in a folder named after its lock, and what is missing is
named with the command.
"""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from infra.cluster import installation
from infra.cluster.errors import ClusterError
from infra.servers.errors import ServerError
from tests.support.errors import refused


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path))
    return tmp_path


def test_every_part_has_a_folder_of_its_own_in_the_cache(empty_cache: Path) -> None:
    homes = [part.home for part in installation.parts(installation.locate())]
    assert len(set(homes)) == 6
    assert all(home.is_relative_to(empty_cache) for home in homes)


def test_what_is_missing_is_named_with_the_command() -> None:
    parts = installation.parts(installation.locate())
    with refused(
        ServerError, field=", ".join(part.home.name for part in parts), reason="MISSING"
    ) as caught:
        installation.find_installed()
    for words in (*(part.what for part in parts), "make cluster"):
        assert words in caught.value.text


def test_with_too_little_disk_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    said: list[str] = []
    with refused(ClusterError, reason="TOO_SMALL", limit="at least 6 GB"):
        installation.install(said.append)
    assert not said


def test_programs_of_the_cluster_come_before_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin")
    tools = installation.locate()
    (tools.debian / "usr" / "lib" / "x86_64-linux-gnu").mkdir(parents=True)
    found = tools.environment
    assert found["PATH"].split(":")[0] == str(tools.clients)
    assert found["PATH"].split(":")[-1] == "/usr/bin"
    assert found["LD_LIBRARY_PATH"] == str(tools.debian / "usr" / "lib" / "x86_64-linux-gnu")


def test_the_debian_lock_names_each_package_once_with_its_hash() -> None:
    lines = [line.split() for line in installation.DEBIAN.read_text().splitlines()]
    names = [file.split("_")[0] for _, file in lines]
    assert {"containerd", "runc", "containernetworking-plugins", "nftables", "iproute2"} < set(
        names
    )
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256, _ in lines)


def test_images_are_named_as_the_configuration_asks_for_them() -> None:
    assert [installation.reference_of(family) for family in installation.IMAGES] == [
        "localhost/coredns:1",
        "localhost/pause:1",
    ]
