"""Processor time until a command of training answers, in imports of torch.

`python benchmarks/start_times.py [--rounds 5]`. Each case is a new process; its user and system
time are counted, which other processes change little. A round runs all cases one after another and
divides by the time of `import torch` in this round. Printed are medians over the rounds.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TORCH = "import torch"
TRAIN = (sys.executable, "-m", "thumbwheel_cli", "train")
SFT = (*TRAIN, "sft", "--work", "nowhere", "--model")
DATA = ("--data", "docs/long-tests.jsonl")
CASES = {
    TORCH: (sys.executable, "-c", TORCH),
    "thumbwheel --help": (*TRAIN[:-1], "--help"),
    "train --help": (*TRAIN, "--help"),
    "train sft --help": (*TRAIN, "sft", "--help"),
    "unknown option": (*TRAIN, "sft", "--mdel", "models/nano"),
    "missing path": (*SFT, "nowhere", *DATA),
    "unknown field": (*SFT, "models/nano", *DATA, "--set", "lerning_rate=1"),
    "imports of sft": (sys.executable, "-c", "import training.cluster.runner, training.stages.sft"),
    "imports of ppo": (sys.executable, "-c", "import training.cluster.runner, training.stages.ppo"),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(f"{options.rounds} rounds, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(options.rounds):
        for name, command in CASES.items():
            seconds[name].append(processor_seconds(command))
    print(f"{'case':<20}{'seconds':>8}{'imports of torch':>18}")
    for name, measured in seconds.items():
        ratio = statistics.median(
            one / torch for one, torch in zip(measured, seconds[TORCH], strict=True)
        )
        print(f"{name:<20}{statistics.median(measured):>8.2f}{ratio:>18.2f}")


def processor_seconds(command: tuple[str, ...]) -> float:
    """Run a command whose exit status does not matter; return its user and system time."""
    before = os.times()
    subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    after = os.times()
    return (
        after.children_user - before.children_user + after.children_system - before.children_system
    )


if __name__ == "__main__":
    main()
