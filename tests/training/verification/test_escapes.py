"""Goal S4: none of the attempts gets out. Each would report what it found; the controls show that
it would.
"""

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
from training.verification.sandbox.runs import Ended, Run, Sandbox

ENTRY = "\ndef probe():\n"


def evidence(run: Run) -> object:
    """What the probe returned. An error, or no line at all, is none."""
    lines = run.output.splitlines()
    return json.loads(lines[0]).get("value") if lines else None


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What lies and listens on this machine, by the names that probes use."""
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


# Memory of all processes together: docs/decisions/2026-11-26-sandbox.md.
NEED_CONTROL_GROUPS = {"takes 1 GiB in many processes"}


@pytest.mark.parametrize("probe", PROBES)
def test_the_sandbox_holds_what(
    probe: str, sandbox: Sandbox, outside: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if probe in NEED_CONTROL_GROUPS and sandbox.groups is None:
        pytest.skip(
            "no control groups for this user: limits hold for each process, and not for a run as a whole"
        )
    monkeypatch.setenv("A_SECRET", "of the trainer")
    body = PROBES[probe]
    for name, value in outside.items():
        body = body.replace(name, value)
    run = sandbox.run({"code": ENTRY + body, "function": "probe", "calls": [[]]})
    assert evidence(run) is None
    # It was tried: what is not Python would be held by any sandbox.
    assert b"SyntaxError" not in run.output and b"NameError" not in run.output


@pytest.mark.parametrize("control", CONTROLS)
def test_a_probe_would_notice_success_at(control: str, sandbox: Sandbox) -> None:
    run = sandbox.run({"code": ENTRY + CONTROLS[control], "function": "probe", "calls": [[]]})
    assert evidence(run), run.output


def test_there_are_more_probes_than_the_goal_asks_for() -> None:
    assert len(PROBES) >= 30


def test_nothing_of_a_run_is_there_for_the_next(sandbox: Sandbox) -> None:
    leave = "open('/tmp/left', 'w').write('x')\ndef probe(): return 1"
    look = "import os\ndef probe(): return os.path.exists('/tmp/left')"
    assert evidence(sandbox.run({"code": leave, "function": "probe", "calls": [[]]})) == 1
    assert evidence(sandbox.run({"code": look, "function": "probe", "calls": [[]]})) is False


def test_a_loop_without_end_is_ended_by_its_processor_time(sandbox: Sandbox) -> None:
    run = sandbox.run({"code": "while True: pass", "function": "probe", "calls": [[]]})
    assert run.ended is Ended.OUT_OF_TIME


def test_a_loop_that_ignores_the_signal_is_killed(sandbox: Sandbox) -> None:
    code = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert sandbox.run({"code": code, "function": "probe", "calls": [[]]}).ended is Ended.KILLED


def test_a_sleep_without_end_is_ended_by_the_wall_clock(sandbox: Sandbox) -> None:
    run = limited(sandbox, wall_seconds=3.0).run(
        {"code": "import time\ntime.sleep(3600)", "function": "p", "calls": [[]]}
    )
    assert run.ended is Ended.OUT_OF_TIME


def test_a_flood_is_read_to_the_limit_and_no_further(sandbox: Sandbox) -> None:
    code = "import os\nwhile True:\n  for d in range(3, 9):\n    try: os.write(d, b'x' * 65536)\n    except OSError: pass"
    run = sandbox.run({"code": code, "function": "probe", "calls": [[]]})
    assert run.ended is Ended.FLOODED
    assert len(run.output) == sandbox.limits.output_bytes


DAEMON = """
import os, sys, time
def probe():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(600)", "@MARK@"])
        os._exit(0)
    time.sleep(@SECONDS@)
    return 1
"""


def marked(mark: str) -> list[str]:
    """Processes of this machine that carry the mark as an argument of their own."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in file.read_bytes().split(b"\0"):
                found.append(file.parent.name)
        except OSError:
            continue
    return found


def test_a_process_that_detached_itself_is_seen_while_it_runs_and_gone_afterwards(
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


def test_a_run_that_is_over_time_leaves_no_process_and_no_control_group(sandbox: Sandbox) -> None:
    mark = str(uuid.uuid4())
    code = DAEMON.replace("@MARK@", mark).replace("@SECONDS@", "3600")
    run = limited(sandbox, wall_seconds=4.0).run({"code": code, "function": "probe", "calls": [[]]})
    assert run.ended is Ended.OUT_OF_TIME
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
