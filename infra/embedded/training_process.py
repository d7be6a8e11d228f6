"""Training's process: Ctrl-C ends it at its next checkpoint if one is near, and again at once; what
it has done is kept.

It has a session of its own: the terminal's Ctrl-C would reach it, and all that it has started, in
the middle of a step.
"""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from infra.embedded.layout import ROOT
from infra.supervision.child import die_with_parent

# About as long as a person waits before they press again; a checkpoint that comes later is not
# near.
NEAR_SECONDS = 30.0
# Ray takes its workers down in two seconds; where they are only starting, on two busy cores, it
# took 15.
LEAVE_SECONDS = 40.0
LOOK_SECONDS = 0.1
# Of these nothing is lost: they take seconds, or keep a record of each look.
LOSE_NOTHING = ("", "snapshot", "gate", "canary")


async def attend(
    command: Sequence[str],
    environment: Mapping[str, str],
    loop: Path,
    say: Callable[[str], None],
    near_seconds: float = NEAR_SECONDS,
) -> int:
    """Run it to its end; its exit status. Cancelled, by Ctrl-C, it ends training first, which says
    how to go on.

    Args:
        loop: the loop's directory, whose files tell where training is.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=environment,
        start_new_session=True,
        preexec_fn=_begin,
    )
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            await _end(process, loop, say, near_seconds)


def _begin() -> None:
    """Whoever was started in the background ignores Ctrl-C, and training would with them. Without
    us it is to stop too.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent(signal.SIGINT)


async def _end(
    process: asyncio.subprocess.Process, loop: Path, say: Callable[[str], None], near_seconds: float
) -> None:
    """Cancelled meanwhile, by a second Ctrl-C, it waits for no checkpoint any more; by a third, for
    nothing.
    """
    try:
        with suppress(asyncio.CancelledError):
            await _checkpoint(process, loop, say, near_seconds)
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), LEAVE_SECONDS)
    finally:
        if process.returncode is None:
            say("training is killed; what it has written is kept")
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _checkpoint(
    process: asyncio.subprocess.Process, loop: Path, say: Callable[[str], None], near_seconds: float
) -> None:
    """Return once a checkpoint has come, a step has ended, or it takes too long."""
    step, before = running_step(loop), _marks(loop)
    if step in LOSE_NOTHING:
        return
    say(f"{step} stops at its next checkpoint, in {near_seconds:.0f} s at the latest")
    with suppress(TimeoutError):
        async with asyncio.timeout(near_seconds):
            while (  # noqa: ASYNC110
                process.returncode is None and running_step(loop) == step and _marks(loop) == before
            ):
                await asyncio.sleep(LOOK_SECONDS)


def running_step(loop: Path) -> str:
    """The step that a turn is at; empty when none runs."""
    file = loop / "status.json"
    return str(json.loads(file.read_text())["step"]) if file.exists() else ""


def _marks(loop: Path) -> set[Path]:
    """The checkpoints that there are; the oldest goes when a new one comes."""
    return set(loop.glob("runs/*/stages/*/step-*"))
