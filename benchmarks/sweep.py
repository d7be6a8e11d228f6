"""Answers, refusals and waits with 5 to 400 streams, for Thumbwheel, the model server, and others.

`python benchmarks/sweep.py [--streams 5 10 25 50 100 200 400] [--rounds 3] [--by upstream http
grpc]`. All streams start together and request 80 tokens each, at 20 per second. A stream starts the
next answer after the previous one, waits as long as a refusal demands, and gives up after a minute.
Client and model server are the Go program in benchmarks/load; they share the processors with the
services.

`--before DIR` measures the services of another work tree in the same rounds. `--other NAME=URL`
measures a running server with OpenAI's API that uses the model server at `--model-port`; its key is
in the variable LOAD_KEY. `--profile` samples each service with py-spy at the largest number of
streams and prints the most expensive functions.
"""

import argparse
import asyncio
import base64
import json
import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thumbwheel.chat.v1 import chat_pb2

from benchmarks.chat_path import (
    QUESTION,
    TOKEN_SECONDS,
    build_load,
    cpu_seconds,
    model_directory,
    model_server,
    print_environment,
    ready,
)
from infra.run.embedded.layout import ROOT, Layout, free_ports, programs
from infra.run.supervision.ports import HOST, free_port

STREAMS = (5, 10, 25, 50, 100, 200, 400)
SECONDS, LONGER_FROM, LONGER_SECONDS = 10.0, 100, 14.0
TOKENS = 80
SETTLE_SECONDS = 3.0


@dataclass(frozen=True)
class MeasuredPath:
    """A measured path: arguments of the client, and the processes with reported processor time."""

    name: str
    arguments: Sequence[str]
    pids: Mapping[str, int]


@contextmanager
def started(
    arguments: Sequence[str], log: Path, **options: object
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process with its standard error in `log`."""
    with log.open("ab") as err, subprocess.Popen(arguments, stderr=err, **options) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.terminate()


@contextmanager
def services(
    checkout: Path, folder: Path, model_port: int
) -> Iterator[tuple[Layout, Mapping[str, int]]]:
    """Run the embedded services of a work tree with the model server at `model_port`.

    Yields their layout and process ids.
    """
    layout = Layout(folder, {**free_ports(), "predictor": model_port}, without_quotas=True)
    layout.prepare()
    pids = {}
    with ExitStack() as stack:
        for program in programs(layout, model_directory(folder)):
            if program.name == "predictor":
                continue
            environment = {
                **os.environ,
                **program.environment,
                "PYTHONPATH": f"{checkout}:{checkout / 'gen'}",
            }
            if not (checkout / "services" / "chassis" / "service_identity.py").exists():
                # Services refuse settings that their version does not know.
                environment = {
                    name: value
                    for name, value in environment.items()
                    if "_IDENTITY_KEY" not in name
                }
            if program.name == "gateway":
                # One key represents many users.
                environment["TW_GATEWAY_MAX_CONNECTION_RPCS"] = "0"
            log = folder / f"{program.name}.txt"
            process = stack.enter_context(
                started(program.command, log, env=environment, cwd=checkout)
            )
            pids[program.name] = process.pid
        asyncio.run(
            ready([port for name, port in layout.ports.items() if not name.endswith("metrics")])
        )
        yield layout, pids


def paths_of(
    name: str, layout: Layout, pids: Mapping[str, int], wanted: Sequence[str]
) -> Iterator[MeasuredPath]:
    """Yield the endpoints of one set of services."""
    key = ("--key", (layout.state / "owner.key").read_text().strip())
    if "http" in wanted:
        yield MeasuredPath(
            f"{name} /v1", ("--url", f"{layout.url}/v1/chat/completions", *key), pids
        )
    if "grpc" in wanted:
        sampling = chat_pb2.SamplingOverrides(max_tokens=TOKENS)
        message = chat_pb2.SendMessageRequest(
            input=chat_pb2.UserInput(text=QUESTION), sampling=sampling
        )
        request = base64.b64encode(message.SerializeToString()).decode()
        field = str(chat_pb2.ChatEvent.DESCRIPTOR.fields_by_name["text_delta"].number)
        arguments = (
            "--grpc",
            layout.target("gateway"),
            "--request",
            request,
            "--text-field",
            field,
            *key,
        )
        yield MeasuredPath(f"{name} gRPC", arguments, pids)


def busy_seconds() -> tuple[float, float]:
    """Return processor seconds of the machine so far, busy and total."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]), sum(fields)


@dataclass(frozen=True)
class RunResult:
    """Result of one run.

    The JSON of the client (benchmarks/load/send.go), the busy share of all processors, and
    processor seconds by process.
    """

    client: Mapping[str, Any]
    busy: float
    cpu: Mapping[str, float]

    def row(self) -> str:
        client, answers = self.client, max(self.client["answers"], 1)
        (first50, _, first99), (asked50, _, asked99) = (
            client["first_text_ms"],
            client["since_asked_ms"],
        )
        (whole50, _, whole99), (refusal50, _, _) = client["whole_ms"], client["refusal_ms"]
        costs = " ".join(f"{name} {1000 * spent / answers:.0f}" for name, spent in self.cpu.items())
        return (
            f"{client['answers']:4} answers in {client['seconds']:4.1f} s"
            f" | refused {client['refused']:4} ({refusal50:.0f} ms), given up"
            f" {client['given_up']}, failed {client['failed'] or 0}"
            f" | first text {first50:5.0f} / {first99:5.0f} ms, since asked {asked50:5.0f} /"
            f" {asked99:5.0f}"
            f" | whole {whole50 / 1000:.2f} / {whole99 / 1000:.2f} s | busy {100 * self.busy:3.0f}"
            f" % | ms a turn: {costs}"
        )


def measure(load: Path, path: MeasuredPath, streams: int, options: argparse.Namespace) -> RunResult:
    """Run the client once."""
    seconds = options.seconds or (LONGER_SECONDS if streams >= LONGER_FROM else SECONDS)
    waits = [] if options.wait else ["--wait=false"]
    arguments = [
        str(load),
        "send",
        *path.arguments,
        "--streams",
        str(streams),
        "--seconds",
        str(seconds),
        *waits,
    ]
    before, (busy, whole) = cpu_seconds(path.pids), busy_seconds()
    done = subprocess.run(
        [*arguments, "--tokens", str(TOKENS)], capture_output=True, text=True, check=True
    )
    after, (busy_after, whole_after) = cpu_seconds(path.pids), busy_seconds()
    spent = {name: after[name] - before[name] for name in path.pids}
    return RunResult(json.loads(done.stdout), (busy_after - busy) / (whole_after - whole), spent)


def profile(
    load: Path, path: MeasuredPath, streams: int, folder: Path, options: argparse.Namespace
) -> None:
    """Sample every service under load with py-spy and print the most expensive functions."""
    files = {name: folder / f"{name}.folded" for name in path.pids}
    recording = [
        subprocess.Popen(
            [
                "py-spy",
                "record",
                "--gil",
                "-p",
                str(pid),
                "-d",
                "10",
                "-r",
                "200",
                "-f",
                "raw",
                "-o",
                str(files[name]),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name, pid in path.pids.items()
    ]
    measure(load, path, streams, options)
    for process in recording:
        process.wait(60)
    for name, file in files.items():
        print(f"\n{name}")
        inclusive, total = Counter[str](), 0
        for line in file.read_text().splitlines():
            frames, _, samples = line.rpartition(" ")
            functions = {frame.rpartition(":")[0] for frame in frames.split(";")}
            inclusive.update(dict.fromkeys(functions, int(samples)))
            total += int(samples)
        for function, share in inclusive.most_common(options.functions):
            print(f"  {100 * share / total:4.1f} %  {function}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--streams", type=int, nargs="+", default=STREAMS, help="numbers of simultaneous answers"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=0,
        help="seconds in which answers are started; 0: 10, from 100 streams 14",
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--by", nargs="+", choices=("upstream", "http", "grpc"), default=("upstream", "http")
    )
    parser.add_argument(
        "--before", type=Path, help="another work tree to measure in the same rounds"
    )
    parser.add_argument(
        "--other", action="append", default=[], metavar="NAME=URL", help="another server, see above"
    )
    parser.add_argument(
        "--model-port", type=int, default=0, help="port of the model server; 0: a free one"
    )
    parser.add_argument(
        "--no-wait", dest="wait", action="store_false", help="retry immediately after a refusal"
    )
    parser.add_argument("--profile", action="store_true", help="profile each service; needs py-spy")
    parser.add_argument(
        "--functions", type=int, default=15, help="lines of the profile for each service"
    )
    options = parser.parse_args()
    print_environment()
    with tempfile.TemporaryDirectory(prefix="thumbwheel-bench-") as name, ExitStack() as stack:
        folder, model_port = Path(name), options.model_port or free_port()
        load = build_load(folder)
        address = f"{HOST}:{model_port}"
        stack.enter_context(
            started(model_server(load, model_port, TOKEN_SECONDS), folder / "load.txt")
        )
        asyncio.run(ready([model_port]))
        paths = []
        if "upstream" in options.by:
            paths.append(
                MeasuredPath("model server", ("--url", f"http://{address}/v1/chat/completions"), {})
            )
        for other in options.other:
            label, _, url = other.partition("=")
            paths.append(
                MeasuredPath(label, ("--url", url, "--key", os.environ.get("LOAD_KEY", "")), {})
            )
        for label, checkout in (("before", options.before), ("thumbwheel", ROOT)):
            if checkout:
                (folder / label).mkdir()
                layout, pids = stack.enter_context(
                    services(checkout.resolve(), folder / label, model_port)
                )
                paths += paths_of(label, layout, pids, options.by)
        time.sleep(SETTLE_SECONDS)
        for round_ in range(1, options.rounds + 1):
            for streams in options.streams:
                for path in paths:
                    found = measure(load, path, streams, options)
                    print(f"{round_} | {streams:3} | {path.name:16} | {found.row()}", flush=True)
                    time.sleep(SETTLE_SECONDS)
        if options.profile:
            profile(
                load,
                next(path for path in paths if path.pids),
                max(options.streams),
                folder,
                options,
            )


if __name__ == "__main__":
    main()
