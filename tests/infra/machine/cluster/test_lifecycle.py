"""Lifecycle: killed processes, removed files, permission to start, and reaping by process 1."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.machine.cluster import __main__ as commands
from infra.machine.cluster import control_groups, lifecycle
from infra.machine.cluster.__main__ import parse, split
from infra.machine.cluster.errors import ClusterError
from infra.machine.cluster.installation import Tools
from infra.machine.cluster.layout import Layout
from infra.machine.cluster.lifecycle import Process
from infra.run.supervision.supervisor import RUNNING
from tests.support.errors import refused


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """Layout on a machine without control groups."""
    mounts = tmp_path / "mountinfo"
    mounts.touch()
    monkeypatch.setattr(control_groups, "MOUNTS", mounts)
    return Layout(tmp_path / "state")


def note(layout: Layout, pid: int, started: int) -> None:
    layout.state.mkdir(exist_ok=True)
    layout.marker.touch()
    (layout.state / RUNNING).write_text(json.dumps({"pid": pid, "started": started, "ports": {}}))


def started_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def test_running_cluster_is_found_and_stopped(layout: Layout) -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        started = started_of(process.pid)
        note(layout, process.pid, started)
        assert lifecycle.find(layout) == Process(process.pid, started)
        lifecycle.end(layout)
        assert process.wait(20) == -9
    assert lifecycle.find(layout) is None


def test_process_with_reused_pid_is_not_killed(
    layout: Layout,
) -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        note(layout, process.pid, started_of(process.pid) - 1)
        assert lifecycle.find(layout) is None
        lifecycle.down(layout)
        assert process.poll() is None
        process.kill()


def test_zombie_process_is_not_a_running_cluster(
    layout: Layout,
) -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        note(layout, process.pid, started_of(process.pid))
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert lifecycle.find(layout) is None


def test_down_removes_only_the_cluster(layout: Layout) -> None:
    layout.logs.mkdir(parents=True)
    lifecycle.down(layout)
    assert layout.logs.exists()
    layout.marker.touch()
    lifecycle.down(layout)
    assert not layout.state.exists()


def test_folder_with_other_files_is_rejected(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "check_requirements", lambda: None)
    layout.logs.mkdir(parents=True)
    with refused(ClusterError, field=str(layout.state), reason="EXISTS", limit="an empty folder"):
        lifecycle.up(
            layout, Tools(Path("/debian"), Path("/clients"), Path("/helm3")), lambda _: None
        )
    assert [file.name for file in layout.state.iterdir()] == ["logs"]


def test_down_removes_no_files_below_a_mount(layout: Layout) -> None:
    layout.private.mkdir(parents=True)
    layout.marker.touch()
    control_groups.MOUNTS.write_text(
        f"90 20 0:40 / {layout.private}/var/lib rw - ext4 /dev/vda rw\n"
    )
    with refused(ClusterError, field=f"{layout.private}/var/lib", reason="IN_USE"):
        lifecycle.down(layout)
    assert layout.private.exists()


def test_node_command_is_rejected_outside_namespaces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "run_first_process", lambda _: pytest.fail("it was to work here"))
    with refused(ClusterError, field="node", reason="UNSUPPORTED") as caught:
        commands.node(Layout(tmp_path), [], print)
    command = [sys.executable, "-m", "infra.machine.cluster", "node", "--state", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, f"==> {caught.value}\n")


def test_down_without_cluster_does_nothing(layout: Layout) -> None:
    lifecycle.down(layout)
    assert not layout.state.exists()


def test_missing_root_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with refused(ClusterError, field="", reason="UNSUPPORTED", limit="root on Linux"):
        lifecycle.check_requirements()


def test_missing_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with refused(ClusterError, field="unshare", reason="MISSING"):
        lifecycle.check_requirements()


def test_words_after_two_dashes_belong_to_the_command() -> None:
    words, command = split(
        ["exec", "--state", "x", "--", "kubectl", "exec", "pod", "--", "ls", "--state"]
    )
    assert parse(words).state == Path("x")
    assert command == ["kubectl", "exec", "pod", "--", "ls", "--state"]


def test_first_process_reaps_orphans_and_exits_with_the_second() -> None:
    """Fork a second process that leaves an orphan to this test's process 1.

    The second process ends when the orphan has been reaped, as in a namespace.
    """
    program = """
import ctypes, pathlib, subprocess, sys, time
from infra.machine.cluster.node import run_first_process

ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def second():
    command = ["sh", "-c", "sleep 0.1 >&2 & echo $!"]
    orphan = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    while pathlib.Path("/proc", orphan.strip()).exists():
        time.sleep(0.01)
    sys.exit(3)


sys.exit(10 + run_first_process(second))
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 13
