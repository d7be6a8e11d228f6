"""Ctrl-C during training: stop at the next checkpoint, then immediately, then by SIGKILL."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from infra.run.embedded import training_process
from infra.run.embedded.training_process import run_training_process
from infra.run.supervision.interruption import interruptible

# Fake training: writes its next checkpoint when permitted, and records the number of checkpoints at
# the interruption.
TRAINING = """
import pathlib, signal, sys, time
loop = pathlib.Path(sys.argv[1])
stage = loop / "runs" / "nano-1" / "stages" / "sft"
def stop(*_):
    (loop / "interrupted").write_text(str(len(list(stage.glob("step-*")))))
    if sys.argv[2] == "listens":
        sys.exit(130)
signal.signal(signal.SIGINT, stop)
(stage / "step-000010").mkdir(parents=True)
(loop / "runs" / "here").touch()
while True:
    time.sleep(0.02)
    if (loop / "go").exists():
        (stage / "step-000020").mkdir(exist_ok=True)
"""


class Run:
    """A call of `run_training_process` with its messages."""

    def __init__(self, loop: Path, step: str = "sft", listens: str = "listens") -> None:
        self.loop, self.messages = loop, list[str]()
        self._command = [sys.executable, "-c", TRAINING, str(loop), listens]
        (loop / "status.json").write_text(json.dumps({"step": step}))

    async def stopped(self) -> None:
        """Run until Ctrl-C has stopped the process."""
        with interruptible(self._hear):
            await run_training_process(
                self._command, os.environ, self.loop, self._hear, checkpoint_seconds=60
            )
            pytest.fail("it ended by itself")

    def _hear(self, text: str) -> None:
        self.messages.append(text)

    async def begun(self) -> None:
        while not (self.loop / "runs" / "here").exists():
            await asyncio.sleep(0.01)

    async def heard(self, *words: str) -> None:
        """Wait for a message with all words."""
        while not any(all(word in line for word in words) for line in self.messages):
            await asyncio.sleep(0.01)

    @property
    def checkpoints_when_interrupted(self) -> int:
        return int((self.loop / "interrupted").read_text())


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


async def test_ctrl_c_waits_for_the_next_checkpoint(tmp_path: Path) -> None:
    run = Run(tmp_path)

    async def person() -> None:
        await run.begun()
        press()
        await run.heard("sft", "60 s")
        assert not (tmp_path / "interrupted").exists()
        (tmp_path / "go").touch()

    async with asyncio.timeout(30):
        await asyncio.gather(asyncio.create_task(person()), run.stopped())
    assert run.checkpoints_when_interrupted == 2
    assert run.messages[-1] == "stopped"


async def test_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    run = Run(tmp_path)

    async def person() -> None:
        await run.begun()
        press()
        await run.heard("sft", "60 s")
        press()

    async with asyncio.timeout(30):
        await asyncio.gather(asyncio.create_task(person()), run.stopped())
    assert run.checkpoints_when_interrupted == 1


async def test_step_without_loss_stops_immediately(tmp_path: Path) -> None:
    run = Run(tmp_path, step="canary")

    async def person() -> None:
        await run.begun()
        press()

    async with asyncio.timeout(30):
        await asyncio.gather(asyncio.create_task(person()), run.stopped())
    assert run.checkpoints_when_interrupted == 1
    assert not [line for line in run.messages if "canary" in line or "60 s" in line]


async def test_unresponsive_training_is_killed_with_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_process, "EXIT_SECONDS", 0.2)
    run = Run(tmp_path, step="canary", listens="does not")

    async def person() -> None:
        await run.begun()
        press()

    async with asyncio.timeout(30):
        await asyncio.gather(asyncio.create_task(person()), run.stopped())
    assert run.checkpoints_when_interrupted == 1
    assert any("killing" in line for line in run.messages)


async def test_training_handles_ctrl_c_if_its_parent_ignores_it(tmp_path: Path) -> None:
    messages: list[str] = []
    # A shell does the same for processes started in the background.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        here = "import pathlib, sys, time; pathlib.Path(sys.argv[1]).touch(); time.sleep(60)"
        task = asyncio.create_task(
            run_training_process(
                [sys.executable, "-c", here, str(tmp_path / "here")],
                os.environ,
                tmp_path,
                messages.append,
            )
        )
        async with asyncio.timeout(30):
            while not (tmp_path / "here").exists():
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    finally:
        signal.signal(signal.SIGINT, before)
    assert messages == [], "it was not killed"


async def test_exit_status_of_training_is_returned(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit(4)"]
    assert await run_training_process(command, os.environ, tmp_path, lambda _: None) == 4
