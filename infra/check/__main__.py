"""Run all checks of `make check` and list those that failed."""

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

BIN = Path(sys.executable).parent
BUF = "infra/install/node/node_modules/.bin/buf"
CODE = (
    "services",
    "training",
    "sequential",
    "human_evaluation",
    "chat_format",
    "durable_files",
    "secret_detection",
    "s3_credentials",
    "infra",
    "thumbwheel_cli",
    "charts",
    "tests",
    "benchmarks",
)


@dataclass(frozen=True)
class Step:
    """A command that exits with 0 if the rule holds.

    `warns`: print the output even on success.
    """

    name: str
    command: tuple[str, ...]
    warns: bool = False


STEPS = (
    Step("tools", (sys.executable, "-m", "infra.install.tools", "node")),
    # Tests of the house rules render the chart.
    Step("Helm", (sys.executable, "-m", "infra.machine.cluster", "clients")),
    Step("format", (str(BIN / "ruff"), "format", "--check", *CODE)),
    Step("lint", (str(BIN / "ruff"), "check", *CODE)),
    Step("types", (str(BIN / "mypy"), *(folder for folder in CODE if folder != "tests"))),
    Step(
        "house rules",
        (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/architecture"),
    ),
    Step("readability", (sys.executable, "-m", "infra.check.readability"), warns=True),
    Step("proto lint", (BUF, "lint")),
    Step("proto format", (BUF, "format", "--diff", "--exit-code")),
    Step("proto breaking", (BUF, "breaking", "--against", "proto/released.binpb")),
    Step("generated code", (sys.executable, "-m", "infra.install.protos")),
    Step("metrics of the docs", (sys.executable, "-m", "infra.docs.metrics", "--check")),
    Step("settings of the docs", (sys.executable, "-m", "infra.docs.settings", "--check")),
    Step("faults of the docs", (sys.executable, "-m", "infra.docs.faults", "--check")),
    Step("GPUs of the docs", (sys.executable, "-m", "infra.docs.gpu", "--check")),
    Step("dashboards", (sys.executable, "-m", "infra.watching", "--check")),
    Step("chart", (sys.executable, "-m", "infra.docs.chart", "--check")),
    Step("services of the chart", (sys.executable, "-m", "infra.docs.chart_services", "--check")),
    Step("settings of the chart", (sys.executable, "-m", "infra.docs.chart_settings", "--check")),
    Step("images", (sys.executable, "-m", "infra.machine.images", "containerfile", "--check")),
    Step("long tests", (sys.executable, "-m", "tests.long_tests", "--check"), warns=True),
    Step("page", (sys.executable, "-m", "infra.install.tools", "page", "--check")),
)


ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    failed = {step.name: output for step in STEPS if (output := failure(step)) is not None}
    for name, output in failed.items():
        print(f"\n==> {name}", output, sep="\n", flush=True)
    if failed:
        sys.exit(f"==> failed: {', '.join(failed)}")
    print("==> all checks passed")


def failure(step: Step) -> str | None:
    """Run a step and return its output if the step fails; print the output if the step warns.

    The caller prints failures after the last step: a log's tail then shows the reason.
    """
    started = time.monotonic()
    print(f"==> {step.name} …", end=" ", flush=True)
    done = subprocess.run(step.command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(
        f"{'ok' if done.returncode == 0 else 'FAILED'} ({time.monotonic() - started:.0f} s)",
        flush=True,
    )
    if done.returncode:
        return f"{done.stdout}\n{done.stderr}".strip()
    if step.warns and done.stdout:
        print(done.stdout, done.stderr, sep="\n", flush=True)
    return None


if __name__ == "__main__":
    main()
