"""Sandbox setup: refusals without isolation, and operation as root and as another user."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.errors import refused
from training.verification.sandbox import control_groups
from training.verification.sandbox.bubblewrap import (
    NOBODY,
    PROGRAM_VARIABLE,
    SandboxUnavailableError,
)
from training.verification.sandbox.control_groups import ControlGroups
from training.verification.sandbox.inside import plain
from training.verification.sandbox.runs import Sandbox, open_sandbox
from training.verification.sandbox.system_calls import UnknownArchitectureError, build_filter

ROOT = Path(__file__).parents[3]


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """Yield a folder readable by all users, unlike pytest's own folders."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_missing_bubblewrap_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with refused(SandboxUnavailableError, field="bwrap", reason="MISSING") as caught:
        open_sandbox({"PATH": str(tmp_path)})
    for command in (
        "apt-get install bubblewrap",
        "python -m infra.machine.servers install",
        PROGRAM_VARIABLE,
    ):
        assert command in caught.value.text


def test_bubblewrap_without_namespaces_is_refused_with_a_remedy(
    tmp_path: Path,
) -> None:
    program = tmp_path / "bwrap"
    program.write_text(
        "#!/bin/sh\n"
        "echo 'bwrap: Creating new namespace failed: Operation not permitted' >&2\n"
        "exit 1\n"
    )
    program.chmod(0o755)
    with refused(
        SandboxUnavailableError, field="namespaces", reason="SANDBOX_UNAVAILABLE"
    ) as caught:
        open_sandbox({PROGRAM_VARIABLE: str(program)})
    for needed in ("CAP_SYS_ADMIN", "user.max_user_namespaces", "training.securityContext"):
        assert needed in caught.value.text


def test_bubblewrap_without_isolation_is_refused(tmp_path: Path) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho '{\"value\": [42, false]}'\n")
    program.chmod(0o755)
    with refused(SandboxUnavailableError, field=str(program), reason="MISMATCH"):
        open_sandbox({PROGRAM_VARIABLE: str(program)})


def test_unknown_processor_architecture_is_refused() -> None:
    with refused(
        UnknownArchitectureError, field="riscv64", reason="UNSUPPORTED", limit="x86_64, aarch64"
    ):
        build_filter("riscv64")


def test_filter_jumps_stay_inside_the_program() -> None:
    for machine in ("x86_64", "aarch64"):
        rules = build_filter(machine)
        program = [rules[place : place + 8] for place in range(0, len(rules), 8)]
        for number, instruction in enumerate(program):
            assert (
                number + 1 + max(instruction[2], instruction[3]) < len(program)
                or instruction[0] == 6
            )


UNPRIVILEGED_SCRIPT = '''
import json, os, sys, time
from pathlib import Path
from training.verification.sandbox.bubblewrap import Interpreter
from training.verification.sandbox.runs import Limits, open_sandbox
program = Path("/usr/bin/python3").resolve()
python = Interpreter(program, Path("/usr/lib") / program.name)
sandbox = open_sandbox(os.environ, Limits(wall_seconds=90.0), python)
def ask(body):
    return sandbox.run({"code": body, "function": "probe", "calls": [[]]}).output.decode()
print(os.geteuid(), sandbox.groups is None)
print(ask("import os\\ndef probe(): return [os.getuid(), os.listdir('/')]"))
print(ask("import os\\ndef probe(): return open('/etc/passwd').read()"))
print(ask("import ctypes\\ndef probe(): return ctypes.CDLL(None).unshare(0x10000000)"))
print(ask("""
import os, time
def probe():
    for number in range(100):
        if os.fork() == 0:
            time.sleep(9)
            os._exit(0)
    return number
"""))
'''


# Settings of the kernel are read-only in containers.
READ_ONLY = "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys"
IN_CONTAINER = ("unshare", "--mount", "sh", "-ec", f'{READ_ONLY}; exec "$@"', "sh")


@pytest.mark.skipif(
    os.geteuid() != 0, reason="not root: all other sandbox tests already run without root"
)
@pytest.mark.parametrize("before", [(), IN_CONTAINER], ids=["machine", "container"])
def test_sandbox_works_without_root_and_control_groups(
    bubblewrap: dict[str, str], open_to_all: Path, before: Sequence[str]
) -> None:
    assert Path("/usr/bin/python3").exists(), "needs an interpreter readable by all users"
    program = open_to_all / "bwrap"
    shutil.copy(bubblewrap[PROGRAM_VARIABLE], program)
    copied = open_to_all / "code"
    for file in (
        ROOT / "training" / "errors.py",
        *(ROOT / "training" / "verification").rglob("*.py"),
    ):
        place = copied / file.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    (copied / "training" / "__init__.py").touch()
    done = subprocess.run(
        [
            *before,
            "setpriv",
            f"--reuid={NOBODY}",
            f"--regid={NOBODY}",
            "--clear-groups",
            "/usr/bin/python3",
            "-c",
            UNPRIVILEGED_SCRIPT,
        ],
        cwd=copied,
        env={**bubblewrap, PROGRAM_VARIABLE: str(program), "PYTHONPATH": str(copied)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert lines[0] == f"{NOBODY} True", done.stderr
    who, passwords, namespace, forks, *_ = (line for line in lines[1:] if line)
    assert f"[{NOBODY}," in who
    assert "root" not in who
    assert "FileNotFoundError" in passwords
    assert '{"value": -1}' in namespace
    assert "BlockingIOError" in forks


def test_cgroup_v2_gets_its_known_limits_and_is_removed(tmp_path: Path) -> None:
    groups = ControlGroups(
        (tmp_path,), {"memory.max": 7, "pids.max": 3, "memory.limit_in_bytes": 9}
    )
    made = Kernel(tmp_path, ("memory.max", "pids.max", "cgroup.procs"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "mkdir", lambda group: made.mkdir(group))
        patch.setattr(Path, "rmdir", lambda group: made.rmdir(group))
        with groups.of_one_run("1") as entries:
            group = entries[0].parent
            assert (group / "memory.max").read_text() == "7"
            assert (group / "pids.max").read_text() == "3"
            assert not (group / "memory.limit_in_bytes").exists()
    assert made.removed == [group]


def test_no_control_groups_are_found_without_a_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_groups, "MOUNT", tmp_path / "nothing")
    assert control_groups.find_control_groups(2**20, 8) is None


class Kernel:
    """Creates and removes the files of a control group like the kernel."""

    def __init__(self, folder: Path, files: tuple[str, ...]) -> None:
        self.folder, self.files, self.removed = folder, files, list[Path]()

    def mkdir(self, group: Path) -> None:
        os.mkdir(group)  # noqa: PTH102 - Path's own is replaced
        for file in self.files:
            (group / file).write_text("")

    def rmdir(self, group: Path) -> None:
        shutil.rmtree(group)
        self.removed.append(group)


def test_only_json_types_are_reported() -> None:
    assert plain({"a": (1, [2.5, None, "x"], True)}) == {"a": [1, [2.5, None, "x"], True]}
    for value in ({1, 2}, {1: 2}, object(), b"x", type("Text", (str,), {})("x")):
        with pytest.raises(TypeError):
            plain(value)


def test_runs_are_deterministic(sandbox: Sandbox) -> None:
    code = "def probe(): return [list({'a', 'b', 'c', 'd'}), hash('x')]"
    outputs = {
        sandbox.run({"code": code, "function": "probe", "calls": [[]]}).output for _ in range(3)
    }
    assert len(outputs) == 1
    assert sys.hash_info.width == 64
