"""Control groups are found in every hierarchy and removed recursively."""

from pathlib import Path

import pytest

from infra.machine.cluster import control_groups
from infra.machine.cluster.errors import ClusterError
from tests.support.errors import refused

MOUNTS = """\
25 20 0:22 / /sys rw,nosuid - sysfs sysfs rw
30 25 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory
40 20 0:30 / /cgroup-notes rw - ext4 /dev/vda rw
"""


@pytest.fixture
def hierarchy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fake hierarchy of plain folders."""
    mounts, folder = tmp_path / "mountinfo", tmp_path / "memory"
    folder.mkdir()
    mounts.write_text(f"32 30 0:28 / {folder} rw - cgroup cgroup rw,memory\n")
    monkeypatch.setattr(control_groups, "MOUNTS", mounts)
    monkeypatch.setattr(control_groups, "EMPTY_WITHIN_SECONDS", 0.1)
    return folder


def test_cgroup_hierarchies_of_both_versions_are_found() -> None:
    assert control_groups.hierarchies(MOUNTS) == [
        Path("/sys/fs/cgroup/unified"),
        Path("/sys/fs/cgroup/memory"),
    ]


@pytest.mark.parametrize(("file", "weight"), [("cpu.shares", "8192"), ("cpu.weight", "800")])
def test_components_have_a_weight_next_to_pods(hierarchy: Path, file: str, weight: str) -> None:
    (hierarchy / "ours" / "parts").mkdir(parents=True)
    (hierarchy / "ours" / file).write_text("as the kernel comes with it")
    control_groups.create("ours")
    control_groups.join_components("ours")
    assert (hierarchy / "ours" / file).read_text() == weight
    assert (
        hierarchy / "ours" / "parts" / "cgroup.procs"
    ).read_text() == "0"  # 0 denotes the calling process


def test_other_hierarchies_have_no_weights(hierarchy: Path) -> None:
    control_groups.create("ours")
    control_groups.join_components("ours")
    assert not list((hierarchy / "ours").iterdir())


def test_group_is_removed_with_its_subgroups_only(hierarchy: Path) -> None:
    control_groups.create("ours")
    control_groups.create("theirs")
    (hierarchy / "ours" / "pods" / "one").mkdir(parents=True)
    (hierarchy / "ours" / "pods" / "two").mkdir()
    control_groups.remove("ours")
    assert [folder.name for folder in hierarchy.iterdir()] == ["theirs"]


def test_removal_of_missing_group_does_nothing(hierarchy: Path) -> None:
    control_groups.remove("ours")
    assert not list(hierarchy.iterdir())


def test_group_in_use_is_named_in_the_error(hierarchy: Path) -> None:
    control_groups.create("ours")
    (hierarchy / "ours" / "tasks").write_text(
        "1"
    )  # a plain folder with entries refuses removal like a busy group
    with refused(ClusterError, field=str(hierarchy / "ours"), reason="IN_USE"):
        control_groups.remove("ours")
