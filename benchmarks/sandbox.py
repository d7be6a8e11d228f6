"""Cost of a sandbox run relative to a bare interpreter, and runs per second with two threads.

`python benchmarks/sandbox.py`. Bare and sandboxed runs alternate, so other processes slow both. The
code is trusted and returns 1.
"""

import argparse
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from infra.machine.servers import installation
from training.verification.sandbox.bubblewrap import PROGRAM_VARIABLE
from training.verification.sandbox.runs import Sandbox, open_sandbox

THREADS = 2
REQUEST = {"code": "def f(): return 1", "function": "f", "calls": [[]]}
MAX_OVERHEAD_SECONDS, MIN_RUNS_PER_SECOND = 0.060, 20  # goal S4, on two idle cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    runs = parser.parse_args().runs
    sandbox = open_sandbox({PROGRAM_VARIABLE: str(installation.find_installed().bubblewrap)})
    load = Path("/proc/loadavg").read_text().split()[0]
    print(
        f"{platform.processor() or platform.machine()}, Linux {platform.release()}, Python"
        f" {platform.python_version()}, load {load}"
    )
    print(f"control groups: {'yes' if sandbox.groups else 'no, limits a process only'}")
    overhead(sandbox, runs)
    throughput(sandbox, runs)


def overhead(sandbox: Sandbox, runs: int) -> None:
    """Print the medians of alternating runs."""
    python = str(sandbox.interpreter.program)
    bare, inside = list[float](), list[float]()
    for _ in range(runs):
        bare.append(seconds_of(lambda: subprocess.run([python, "-S", "-c", "pass"], check=True)))
        inside.append(seconds_of(lambda: sandbox.run(REQUEST)))
    outside, within = statistics.median(bare), statistics.median(inside)
    print(
        f"one run: {within * 1e3:.0f} ms, bare interpreter {outside * 1e3:.0f} ms:"
        f" {within / outside:.1f} times, overhead "
        f"{(within - outside) * 1e3:.0f} ms (goal {MAX_OVERHEAD_SECONDS * 1e3:.0f}); best"
        f" {min(inside) * 1e3:.0f} ms "
        f"to {min(bare) * 1e3:.0f} ms"
    )


def throughput(sandbox: Sandbox, runs: int) -> None:
    with ThreadPoolExecutor(THREADS) as threads:
        took = seconds_of(lambda: list(threads.map(lambda _: sandbox.run(REQUEST), range(runs))))
    print(f"{THREADS} threads: {runs / took:.0f} runs/s (goal {MIN_RUNS_PER_SECOND})")


def seconds_of(do: Callable[[], object]) -> float:
    began = time.monotonic()
    do()
    return time.monotonic() - began


if __name__ == "__main__":
    main()
