"""Training process that Ctrl-C stops at its next checkpoint.

A second Ctrl-C stops training immediately. Written progress is preserved. The process has its own
session: otherwise Ctrl-C in the terminal would interrupt training and its children in the middle of
a step.
"""

import asyncio
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from infra.run.embedded.layout import ROOT
from infra.run.supervision.child import die_with_parent

# About the time before a person presses Ctrl-C again. A later checkpoint is not awaited.
CHECKPOINT_SECONDS = 30.0
# Ray stops its workers in two seconds, or in up to 15 if they are still starting on two busy cores.
EXIT_SECONDS = 40.0
POLL_SECONDS = 0.1
# Steps without loss on interruption: they take seconds or record each observation.
STEPS_WITHOUT_LOSS = ("", "snapshot", "gate", "canary")


async def run_training_process(
    command: Sequence[str],
    environment: Mapping[str, str],
    loop: Path,
    say: Callable[[str], None],
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> int:
    """Run the training process and return its exit status.

    At cancellation (Ctrl-C), training is stopped first and prints how to continue.

    Args:
        loop: directory of the loop with the status file of training.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=environment,
        start_new_session=True,
        preexec_fn=_prepare_child,
    )
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            await _stop(process, loop, say, checkpoint_seconds)


def _prepare_child() -> None:
    """Restore the default SIGINT handler in the child.

    A process started in the background ignores SIGINT, and its children inherit this. The child
    also stops at the death of this process.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent(signal.SIGINT)


async def _stop(
    process: asyncio.subprocess.Process,
    loop: Path,
    say: Callable[[str], None],
    checkpoint_seconds: float,
) -> None:
    """Stop training at a checkpoint.

    A second Ctrl-C skips the wait for a checkpoint, a third kills the process.
    """
    try:
        with suppress(asyncio.CancelledError):
            # Wait for the next checkpoint, the end of the step, or the time-out.
            step, before = running_step(loop), _checkpoints(loop)
            if step not in STEPS_WITHOUT_LOSS:
                say(f"{step} stops at its next checkpoint or after {checkpoint_seconds:.0f} s")
                with suppress(TimeoutError):
                    async with asyncio.timeout(checkpoint_seconds):
                        while (  # noqa: ASYNC110
                            process.returncode is None
                            and running_step(loop) == step
                            and _checkpoints(loop) == before
                        ):
                            await asyncio.sleep(POLL_SECONDS)
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), EXIT_SECONDS)
    finally:
        if process.returncode is None:
            say("killing training; written progress is preserved")
            # The process group includes Ray's processes.
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def running_step(loop: Path) -> str:
    """Return the current step of a run; empty if no run is in progress."""
    file = loop / "status.json"
    return str(json.loads(file.read_text())["step"]) if file.exists() else ""


def _checkpoints(loop: Path) -> set[Path]:
    """Return the existing checkpoints; a new checkpoint replaces the oldest."""
    return set(loop.glob("runs/*/stages/*/step-*"))
