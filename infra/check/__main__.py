"""Run all checks of `make check` and list those that failed."""

import subprocess
import sys
import time
from pathlib import Path

from infra.check.steps import STEPS, Step

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    failed = [step.name for step in STEPS if not passes(step)]
    if failed:
        sys.exit(f"==> failed: {', '.join(failed)}")
    print("==> all checks passed")


def passes(step: Step) -> bool:
    """Run a step; print its output if the step fails or warns."""
    started = time.monotonic()
    print(f"==> {step.name} …", end=" ", flush=True)
    done = subprocess.run(step.command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(
        f"{'ok' if done.returncode == 0 else 'FAILED'} ({time.monotonic() - started:.0f} s)",
        flush=True,
    )
    if done.returncode or (step.warns and done.stdout):
        print(done.stdout, done.stderr, sep="\n", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    main()
