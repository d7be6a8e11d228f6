"""Programs are built from locks; missing requirements are reported before the build."""

import re
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from infra.machine.cluster import programs
from infra.machine.cluster.errors import ClusterError
from infra.machine.cluster.installation import ETCD, KUBERNETES, PAUSE, PROGRAMS
from infra.machine.cluster.programs import GoProgram, check_disk_space, linker_flags
from tests.support.errors import refused

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("family", PROGRAMS, ids=lambda family: family.name)
def test_programs_have_a_source_and_a_lock_with_their_name(
    family: GoProgram,
) -> None:
    assert len((family.sources / "main.go").read_text().splitlines()) < 60
    assert (
        (family.lock / "go.mod")
        .read_text()
        .startswith(f"module thumbwheel/cluster/{family.name}\n")
    )
    required = re.findall(
        r"^\t?(?:require )?([\w./-]+) (v\S+)", (family.lock / "go.mod").read_text(), re.MULTILINE
    )
    sums = (family.lock / "go.sum").read_text()
    assert (sums == "") is (family is PAUSE)
    for module, version in required:
        if "=>" not in version and f"replace {module}" not in (family.lock / "go.mod").read_text():
            assert f"{module} {version}/go.mod h1:" in sums, module


def test_kubernetes_modules_have_the_same_version() -> None:
    text = (KUBERNETES.lock / "go.mod").read_text()
    version = re.search(r"k8s\.io/kubernetes v1\.(\S+)", text)
    assert version
    replaced = re.findall(r"^replace (\S+) => (\S+) (\S+)$", text, re.MULTILINE)
    assert len(replaced) > 25
    assert {(old == new, at) for old, new, at in replaced} == {(True, f"v0.{version[1]}")}


def test_changed_source_or_lock_changes_the_program_folder(tmp_path: Path) -> None:
    sources, lock = (
        shutil.copytree(PAUSE.sources, tmp_path / "a"),
        shutil.copytree(PAUSE.lock, tmp_path / "b"),
    )
    copied = GoProgram("pause", sources, lock)
    assert copied.home == PAUSE.home
    (sources / "main.go").write_text("package main\n")
    changed = copied.home
    (lock / "go.mod").write_text("module other\n")
    assert len({PAUSE.home, changed, copied.home}) == 3


def test_kubernetes_version_is_set_by_linker_flags() -> None:
    flags = linker_flags(
        "require k8s.io/kubernetes v1.34.4\n\nrequire k8s.io/api v0.0.0 // indirect\n"
    )
    for package in programs.STAMPED:
        assert f"-X {package}.gitVersion=v1.34.4" in flags
        assert f"-X {package}.gitMinor=34" in flags
    assert linker_flags(ETCD.lock.joinpath("go.mod").read_text()) == "-s -w"


def test_build_does_not_use_the_users_go_caches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path))
    environment = programs.environment()
    assert all(environment[name].startswith(str(tmp_path)) for name in ("GOMODCACHE", "GOCACHE"))


def test_full_disk_is_reported_with_the_required_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THUMBWHEEL_CACHE", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda tool: f"/{tool}")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**10, 9 * 10**9, 10**9))
    with refused(
        ClusterError, field=str(tmp_path), reason="TOO_SMALL", limit="at least 6 GB"
    ) as caught:
        check_disk_space()
    assert "1.0" in caught.value.text
