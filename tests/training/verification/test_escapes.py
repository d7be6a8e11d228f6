"""Goal S4: no escape attempt succeeds. Controls show that the attempts would detect success."""

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.verification.escapes import CONTROLS, PROBES
from training.verification.sandbox.runs import EndReason, Run, Sandbox

ENTRY = "\ndef probe():\n"


def evidence(run: Run) -> object:
    """Return the value returned by the probe; None after an error or without output."""
    lines = run.output.splitlines()
    return json.loads(lines[0]).get("value") if lines else None


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Yield files and listeners of this machine, by the placeholders of the probes."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "file").write_text("of another job")
    folder.chmod(0o755)
    abstract = f"\0{uuid.uuid4()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_UNIX) as unnamed,
    ):
        named.bind(str(folder / "s"))
        named.listen()
        unnamed.bind(abstract)
        unnamed.listen()
        yield {
            "@FILE@": str(folder / "file"),
            "@REPOSITORY@": str(Path(__file__).parents[3]),
            "@PORT@": str(server.getsockname()[1]),
            "@SOCKET@": repr(str(folder / "s")),
            "@ABSTRACT@": repr(abstract),
            "@VERSION@": f"python{sys.version_info[0]}.{sys.version_info[1]}",
        }


# Limits for all processes of a run: docs/decisions/verifiable-rewards.md.
NEED_CONTROL_GROUPS = {"takes 1 GiB in many processes"}


@pytest.mark.parametrize("probe", PROBES)
def test_sandbox_prevents(
    probe: str, sandbox: Sandbox, outside: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if probe in NEED_CONTROL_GROUPS and sandbox.groups is None:
        pytest.skip(
            "no control groups for this user: limits apply per process, not to the whole run"
        )
    monkeypatch.setenv("A_SECRET", "of the trainer")
    body = PROBES[probe]
    for name, value in outside.items():
        body = body.replace(name, value)
    run = sandbox.run({"code": ENTRY + body, "function": "probe", "calls": [[]]})
    assert evidence(run) is None
    # The probe ran: invalid Python would also produce no evidence.
    assert b"SyntaxError" not in run.output and b"NameError" not in run.output


@pytest.mark.parametrize("control", CONTROLS)
def test_control_of_the_probes_succeeds_at(control: str, sandbox: Sandbox) -> None:
    run = sandbox.run({"code": ENTRY + CONTROLS[control], "function": "probe", "calls": [[]]})
    assert evidence(run), run.output


def test_number_of_probes_meets_the_goal() -> None:
    assert len(PROBES) >= 30


def test_runs_leave_no_files_for_the_next_run(sandbox: Sandbox) -> None:
    leave = "open('/tmp/left', 'w').write('x')\ndef probe(): return 1"
    look = "import os\ndef probe(): return os.path.exists('/tmp/left')"
    assert evidence(sandbox.run({"code": leave, "function": "probe", "calls": [[]]})) == 1
    assert evidence(sandbox.run({"code": look, "function": "probe", "calls": [[]]})) is False


def test_endless_loop_exceeds_the_processor_time(sandbox: Sandbox) -> None:
    run = sandbox.run({"code": "while True: pass", "function": "probe", "calls": [[]]})
    assert run.ended is EndReason.OUT_OF_TIME


def test_loop_that_ignores_the_signal_is_killed(sandbox: Sandbox) -> None:
    code = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert sandbox.run({"code": code, "function": "probe", "calls": [[]]}).ended is EndReason.KILLED


def test_endless_sleep_exceeds_the_wall_time(sandbox: Sandbox) -> None:
    run = limited(sandbox, wall_seconds=3.0).run(
        {"code": "import time\ntime.sleep(3600)", "function": "p", "calls": [[]]}
    )
    assert run.ended is EndReason.OUT_OF_TIME


def test_output_is_read_up_to_the_limit(sandbox: Sandbox) -> None:
    code = (
        "import os\nwhile True:\n  for d in range(3, 9):\n"
        "    try: os.write(d, b'x' * 65536)\n    except OSError: pass"
    )
    run = sandbox.run({"code": code, "function": "probe", "calls": [[]]})
    assert run.ended is EndReason.FLOODED
    assert len(run.output) == sandbox.limits.output_bytes


DAEMON = """
import os, sys, time
def probe():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            sleep = "import time; time.sleep(600)"
            os.execv(sys.executable, [sys.executable, "-S", "-c", sleep, "@MARK@"])
        os._exit(0)
    time.sleep(@SECONDS@)
    return 1
"""


def marked(mark: str) -> list[str]:
    """Return the processes of this machine with the mark as an argument."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in file.read_bytes().split(b"\0"):
                found.append(file.parent.name)
        except OSError:
            continue
    return found


def test_detached_process_ends_with_the_run(
    sandbox: Sandbox,
) -> None:
    mark, seen = str(uuid.uuid4()), threading.Event()
    code = DAEMON.replace("@MARK@", mark).replace("@SECONDS@", "8")

    def watch() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and not seen.is_set():
            if marked(mark):
                seen.set()

    watching = threading.Thread(target=watch)
    watching.start()
    run = sandbox.run({"code": code, "function": "probe", "calls": [[]]})
    watching.join()
    assert evidence(run) == 1
    assert seen.is_set(), "the control: it did run"
    assert not marked(mark)


def test_run_over_time_leaves_no_process_and_no_control_group(sandbox: Sandbox) -> None:
    mark = str(uuid.uuid4())
    code = DAEMON.replace("@MARK@", mark).replace("@SECONDS@", "3600")
    run = limited(sandbox, wall_seconds=4.0).run({"code": code, "function": "probe", "calls": [[]]})
    assert run.ended is EndReason.OUT_OF_TIME
    assert not marked(mark)
    assert not [
        group
        for parent in (sandbox.groups.parents if sandbox.groups else ())
        for group in own_groups(parent)
    ]


def own_groups(parent: Path) -> list[Path]:
    return list(parent.glob(f"thumbwheel-sandbox-{os.getpid()}-*"))


def limited(sandbox: Sandbox, wall_seconds: float) -> Sandbox:
    return replace(sandbox, limits=replace(sandbox.limits, wall_seconds=wall_seconds))
