"""Length of the two paths through the code: `python benchmarks/paths.py [--list]`.

Start the embedded system with a profiler in each process (benchmarks/path_tracer), send one message
and one thumb, and print for each path:

- files: project modules in which a function is entered between the start and the end of the call;
  for a thumb, until the feedback table contains the event.
- representations: classes that hold the text of the message, or the comment of the thumb, as an
  argument or result of a project function. Plain strings, bytes and token ids are not counted.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from thumbwheel.chat.v1 import chat_pb2, chat_pb2_grpc
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc

from infra.run.embedded.preflight import find_ports

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS, CALL_SECONDS, SINK_SECONDS = 300.0, 120.0, 120.0
# Pollers of the profilers notice the end and write their records.
DUMP_SECONDS = 2.0
TEXT = "Please tell me about the purple lighthouse."
MARKER = "purple lighthouse"
COMMENT = "The orange windmill is missing."


@dataclass
class Trace:
    """Modules and classes that one path uses, over all processes."""

    modules: set[str] = field(default_factory=set)
    classes: set[str] = field(default_factory=set)

    def show(self, name: str, listed: bool) -> None:
        print(f"{name}: {len(self.modules)} files, {len(self.classes)} representations")
        if listed:
            print(
                *(f"  {entry}" for entry in (*sorted(self.modules), *sorted(self.classes))),
                sep="\n",
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="print the modules and classes")
    listed = parser.parse_args().list
    with tempfile.TemporaryDirectory() as name, system(Path(name)) as (channel, metadata, state):
        folder = Path(name)
        # The stubs are typed for grpc.aio, and these calls block.
        chat: Any = chat_pb2_grpc.ChatServiceStub(channel)
        feedback: Any = feedback_pb2_grpc.FeedbackServiceStub(channel)

        def send(text: str) -> str:
            request = chat_pb2.SendMessageRequest(
                input=chat_pb2.UserInput(text=text), request_id=str(uuid.uuid4())
            )
            events = list(chat.SendMessage(request, timeout=CALL_SECONDS, metadata=metadata))
            return str(events[-1].message_id)

        def rate(message: str, comment: str) -> None:
            before = objects(state)
            request = feedback_pb2.SubmitFeedbackRequest(
                message_id=message,
                request_id=str(uuid.uuid4()),
                thumb=events_pb2.Thumb(up=False, comment=comment),
            )
            feedback.SubmitFeedback(request, timeout=CALL_SECONDS, metadata=metadata)
            wait_until(lambda: objects(state) - before, SINK_SECONDS)

        rate(send("Hello."), "Too short.")  # Imports and connections are not part of a path.
        message = send("Hello again.")
        traced(folder, MARKER, lambda: send(TEXT)).show("chat", listed)
        time.sleep(2)
        traced(folder, COMMENT, lambda: rate(message, COMMENT)).show("feedback", listed)


@contextmanager
def system(
    folder: Path,
) -> Iterator[tuple[Any, tuple[tuple[str, str], ...], Path]]:
    """Run the embedded system under the profiler; yield a channel, credentials and its state."""
    state = folder / "state"
    tracer = Path(__file__).parent / "path_tracer"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(tracer), str(ROOT), str(ROOT / "gen"))),
        "THUMBWHEEL_TRACED_ROOT": str(ROOT),
        "THUMBWHEEL_TRACE_FOLDER": str(folder),
    }
    command = [
        sys.executable,
        "-m",
        "infra.run.embedded",
        "up",
        "--model",
        "nano",
        "--state",
        str(state),
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--port", "0", "--grpc-port", "0"],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until(lambda: "http://" in (folder / "log").read_text(), START_SECONDS)
        ports = find_ports(state)
        metadata = (("authorization", f"Bearer {(state / 'owner.key').read_text().strip()}"),)
        with grpc.insecure_channel(f"127.0.0.1:{ports['gateway']}") as channel:
            yield channel, metadata, state
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def objects(state: Path) -> set[Path]:
    """Return the committed objects of the feedback stream."""
    return {path for path in (state / "objects").rglob("*.parquet") if "turns" not in str(path)}


def traced(folder: Path, marker: str, action: Callable[[], object]) -> Trace:
    """Run `action` with the profilers armed and return what they recorded."""
    for old in folder.glob("*.json"):
        old.unlink()
    (folder / "armed").write_text(marker)
    time.sleep(0.2)
    action()
    (folder / "armed").unlink()
    found = Trace()
    time.sleep(DUMP_SECONDS)
    for record in folder.glob("*.json"):
        content = json.loads(record.read_text())
        found.modules.update(content["modules"])
        found.classes.update(content["classes"])
    return found


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    """Poll `condition`.

    Raises:
        TimeoutError: the condition is still false after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not reached within {seconds:.0f} s")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
