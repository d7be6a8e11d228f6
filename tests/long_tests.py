"""Run the tests that need minutes, in slices of at most 40 minutes (`make test-long`).

Usage: `python -m tests.long_tests [SLICE ...]`. Each run appends a line to docs/long-tests.jsonl
with commit, date, slice, result, counts and seconds. The age of a slice is the number of commits
since its last pass on a clean working tree that changed the paths it covers. `--check`, a step of
`make check`, warns about slices above MAX_COMMITS; a warning is not a failure. `--current`
(`make long-tests-current`) fails unless the age of every slice is 0.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from infra.install.environment import ROOT, cache

RECORD = ROOT / "docs" / "long-tests.jsonl"
MAX_COMMITS = 60
# Paths that every slice covers. Documentation is no part of what the tests see.
ALL_COVER = ("locks", "tests/support", "tests/conftest.py", ":!*.md")
TEST_SECONDS = 1800


@dataclass(frozen=True)
class Slice:
    """A slice of the long tests.

    Args:
        about: description in a single line.
        covers: paths whose changes require another run, in addition to ALL_COVER.
        modules: Python modules with arguments that run before the tests, for example to install a
            cluster.
        pytest: arguments of pytest; empty if `program` runs instead.
        program: a Python module other than pytest; its exit status is the result.
        environment: variables added to the environment of the tests.
        cores: number of cores that the tests may use; 0: all.
        python: another Python, which runs the tests in a clone of HEAD with its own environment.
    """

    about: str
    covers: tuple[str, ...]
    modules: tuple[tuple[str, ...], ...] = ()
    pytest: tuple[str, ...] = ()
    program: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    cores: int = 0
    python: str = ""


FEEDBACK_FAULTS = tuple(
    f"tests/faults/test_{name}"
    for name in "d f0 f1 f20 f21 f22 f23 f25 f27 f28 f51 f52 f53 f54 f55 f56 f59 f60".split()
)


def feedback_faults() -> tuple[str, ...]:
    """Return the paths of the fault scenarios of feedback: D, F1 to F28 without F24, F51 to F56,
    F59 and F60, except for OUTAGES.
    """
    found = sorted(
        str(file.relative_to(ROOT)) for file in (ROOT / "tests" / "faults").glob("test_*.py")
    )
    return tuple(name for name in found if name.startswith(FEEDBACK_FAULTS) and name not in OUTAGES)


# Paths of the tested product, by what a slice starts.
SHARED = ("proto", "gen", "chat_format", "durable_files")
SERVICES = (*SHARED, "services", "secret_detection", "s3_credentials")
TRAINING = (*SHARED, "training", "models", "sequential", "human_evaluation")
SYSTEM = (*SERVICES, *TRAINING, "infra/run", "infra/machine/servers", "infra/install/small_model")
CHART = ("charts", "Containerfile", "infra/run", "infra/machine", "infra/simulate")
DEPLOYED = (*SYSTEM, *CHART)
COMMANDS = ("Makefile", "infra", "thumbwheel_cli", "tests/commands")
EVERYTHING = (*DEPLOYED, "infra", "tests")
RECORDED_FAULTS = {"THUMBWHEEL_FAULTS": str(ROOT / "docs" / "faults.jsonl")}
KUBERAY = (("infra.machine.cluster", "install"), ("infra.machine.kuberay",))
ONE_BY_ONE = ("--dist", "no")
OUTAGES = (
    "tests/faults/test_d03_ten_minutes_without_kafka.py",
    "tests/faults/test_f61_power_loss.py",
    "tests/faults/test_f62_full_disk.py",
)
CLUSTER_OUTAGES = tuple(
    f"tests/infra/{name}.py"
    for name in (
        *("run/deploy/test_kills", "run/deploy/test_outages", "run/deploy/test_runbook_faults"),
        *("run/deploy/test_version_watch", "simulate/kserve/test_stored_models"),
    )
)
OF_MAKE_TEST = ("-m", "not long and not cluster", "--numprocesses", "2", "--dist", "loadgroup")
# Tests whose figures depend on the instructions that numeric libraries select.
NUMERIC = (
    *("tests/training", "tests/human_evaluation", "tests/sequential"),
    *("tests/services/guardrail", "tests/services/enhancer"),
)
# OpenVINO fails with ONEDNN_MAX_CPU_ISA below AVX-512 on a processor with it, because some of its
# parts ask the processor.
WITH_OPENVINO = "tests/training/rl/rollout_server/test_predictor.py"
CANDIDATES = "tests/journeys/test_candidates.py"
SMALL = "tests/journeys/test_small_candidate.py"
SMALL_SYCOPHANCY = "tests/training/recipes/test_small_sycophancy.py"
AGAINST_DATATROVE = tuple(
    f"tests/training/corpus/{name}/test_against_datatrove.py" for name in ("duplicates", "quality")
)
LIFE = "tests/journeys/test_life.py"
VLLM = "tests/services/generator/test_vllm.py"
VLLM_SYSTEM = "tests/journeys/test_vllm.py"
VLLM_ADAPTERS = "tests/services/generator/test_vllm_adapters.py"
VLLM_LOOP = "tests/journeys/test_loop_vllm.py"
APART = (CANDIDATES, SMALL, LIFE, VLLM, VLLM_SYSTEM, VLLM_LOOP, VLLM_ADAPTERS)  # own slices
WITH_VLLM = ("tests/training/rl/rollout_server/test_vllm.py", "tests/gpu/test_rollouts.py")
CLUSTER_VLLM = (
    "tests/infra/run/deploy/test_vllm_loop.py",
    "tests/infra/simulate/kserve/test_vllm_pods.py",
)
LLAMA_LOOP = "tests/llama_loop.py"


def without(*names: str) -> tuple[str, ...]:
    """Return patterns of git that leave out test modules, which other slices run."""
    return tuple(f":!{name}" for name in names)


ON_CLUSTER = (*DEPLOYED, "tests/infra", *without(*CLUSTER_VLLM))


def numeric_slice(instructions: str, values: tuple[str, str, str, str]) -> Slice:
    """Return the numeric tests of make test with the instructions of other processors."""
    names = ("ATEN_CPU_CAPABILITY", "MKL_CBWR", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE")
    return Slice(
        f"numeric tests of make test, with {instructions} as the latest instructions",
        covers=(*TRAINING, "services/guardrail", "services/enhancer", *NUMERIC),
        pytest=(*OF_MAKE_TEST, f"--ignore={WITH_OPENVINO}", *NUMERIC),
        environment=dict(zip(names, values, strict=True)),
    )


SLICES: dict[str, Slice] = {
    "faults-feedback": Slice(
        "the fault matrix of feedback in all forms",
        covers=(*SERVICES, "infra/machine/servers", "infra/simulate/faults", "tests/faults"),
        pytest=(*ONE_BY_ONE, *feedback_faults()),
        environment=RECORDED_FAULTS,
    ),
    "faults-chat": Slice(
        "the fault matrix of chat, sessions and training in all forms",
        covers=(*SYSTEM, "infra/simulate/faults", "tests/faults"),
        pytest=(
            *(*ONE_BY_ONE, "tests/faults"),
            *(f"--ignore={name}" for name in (*feedback_faults(), *OUTAGES)),
        ),
        environment=RECORDED_FAULTS,
    ),
    "faults-outages": Slice(
        "ten minutes without Kafka; power loss and a full disk at each place that writes",
        covers=(*SYSTEM, "infra/simulate/faults", "tests/faults"),
        pytest=(*ONE_BY_ONE, *OUTAGES),
        environment=RECORDED_FAULTS,
    ),
    "attacks": Slice(
        "attacks on the whole system whose size or time limits need minutes",
        covers=(*SYSTEM, "tests/attacks"),
        pytest=("-m", "long and not cluster", *ONE_BY_ONE, "tests/attacks"),
    ),
    "training": Slice(
        "learning on three seeds, several processes, Ray, kills in every stage",
        covers=(*TRAINING, "tests/training", "tests/gpu"),
        pytest=(
            *("-m", "long", "--numprocesses", "2", "--dist", "loadgroup"),
            *("tests/training", "tests/gpu"),
            *(f"--ignore={name}" for name in (*AGAINST_DATATROVE, SMALL_SYCOPHANCY, *WITH_VLLM)),
        ),
    ),
    "datatrove": Slice(
        "filters and near duplicates of the data path against datatrove's",
        covers=("training/corpus", "tests/training/corpus"),
        pytest=("-m", "long", *ONE_BY_ONE, *AGAINST_DATATROVE),
    ),
    "human-evaluation": Slice(
        "coverage of intervals, fragility by brute force, ratings against arena-rank's",
        covers=("human_evaluation", "sequential", "tests/human_evaluation"),
        pytest=("-m", "long", *ONE_BY_ONE, "tests/human_evaluation"),
    ),
    "system": Slice(
        "journeys of the whole system, long forms of the services' and the tooling's tests",
        covers=(
            *DEPLOYED,
            *("infra", "tests/journeys", "tests/services", "tests/infra", "tests/charts"),
            *without(*APART, *CLUSTER_VLLM),
        ),
        pytest=(
            *("-m", "long and not cluster", *ONE_BY_ONE),
            *(f"--ignore={name}" for name in APART),
            *("tests/journeys", "tests/services", "tests/infra", "tests/charts"),
        ),
    ),
    "vllm": Slice(
        "vLLM's CPU build behind the generator, with adapters, in a whole system, and in PPO",
        covers=(*SYSTEM, "tests/services/generator", VLLM_SYSTEM, *WITH_VLLM),
        modules=(("infra.machine.servers", "install", "vllm"),),
        pytest=("-m", "long", *ONE_BY_ONE, VLLM, VLLM_ADAPTERS, VLLM_SYSTEM, *WITH_VLLM),
    ),
    "loop-vllm": Slice(
        "the whole loop of a Llama-shaped model that vLLM serves and samples",
        covers=(*SYSTEM, "infra/simulate", VLLM_LOOP, LLAMA_LOOP),
        modules=(("infra.machine.servers", "install", "vllm"),),
        pytest=("-m", "long", *ONE_BY_ONE, VLLM_LOOP),
    ),
    "candidates": Slice(
        "five candidates with simulated users: promoted, held, refused, rolled back",
        covers=(*SYSTEM, "infra/simulate", CANDIDATES),
        pytest=("-m", "long", *ONE_BY_ONE, CANDIDATES),
    ),
    "small": Slice(
        "candidates of the small model in its gate: rows with data, sycophancy refused",
        covers=(*SYSTEM, "infra/simulate", SMALL, SMALL_SYCOPHANCY),
        pytest=("-m", "long", *ONE_BY_ONE, SMALL, SMALL_SYCOPHANCY),
    ),
    "life": Slice(
        "the whole life of a small language model, from a crawl to chats",
        covers=(*SYSTEM, "infra/life", LIFE),
        pytest=("-m", "long", *ONE_BY_ONE, LIFE),
    ),
    **{
        f"commands-{name.replace('_', '-')}": Slice(
            f"{about}, as an ordinary user in a clean clone",
            covers=(*SYSTEM, *COMMANDS),
            pytest=("-m", "long", *ONE_BY_ONE, f"tests/commands/test_{name}.py"),
        )
        for name, about in {
            "first_use": "README.md: make up, stack, loop on ratings, periodic runs",
            "demo": "make demo RECIPE=nano and its controls",
            "demo_small": "make demo RECIPE=small",
            "development": "make check, page, lock, oracle and mutants",
        }.items()
    },
    "cluster": Slice(
        "on a real Kubernetes: upgrade under load, rotation, restore, attacks, runbooks",
        covers=ON_CLUSTER,
        modules=(("infra.machine.cluster", "install"),),
        pytest=(
            *("-m", "cluster and long and not ray and not vllm and not releases"),
            *(*ONE_BY_ONE, "tests/infra"),
            *(f"--ignore={name}" for name in CLUSTER_OUTAGES),
        ),
    ),
    "cluster-outages": Slice(
        "on a real Kubernetes: kills, outages, their runbooks, bad versions, stored models",
        covers=ON_CLUSTER,
        modules=(("infra.machine.cluster", "install"),),
        pytest=("-m", "cluster and long", *ONE_BY_ONE, *CLUSTER_OUTAGES),
    ),
    "cluster-releases": Slice(
        "on a real Kubernetes: releases with own stores, an external model, high availability",
        covers=(
            *(*SERVICES, "training/errors.py", *CHART, "tests/infra"),
            *without(*CLUSTER_VLLM),
        ),
        modules=(("infra.machine.cluster", "install"),),
        pytest=("-m", "cluster and long and releases", *ONE_BY_ONE, "tests/infra"),
    ),
    "cluster-vllm": Slice(
        "on a real Kubernetes: vLLM in pods of versions, and as rollout server of RayJobs",
        covers=(*DEPLOYED, "tests/infra", LLAMA_LOOP),
        modules=(*KUBERAY, ("infra.machine.servers", "install", "vllm")),
        pytest=("-m", "cluster and long and vllm", *ONE_BY_ONE, "tests/infra"),
    ),
    "cluster-training": Slice(
        "on a real Kubernetes: turns of the loop as Jobs and as RayJobs",
        covers=ON_CLUSTER,
        modules=KUBERAY,
        pytest=("-m", "cluster and long and ray", *ONE_BY_ONE, "tests/infra"),
    ),
    "processor-old": numeric_slice("SSE", ("default", "COMPATIBILITY", "SSE41", "Nehalem")),
    "processor-avx2": numeric_slice("AVX2", ("avx2", "AVX2", "AVX2", "Haswell")),
    "one-core": Slice("make test on one core", EVERYTHING, pytest=OF_MAKE_TEST, cores=1),
    "python-3.13": Slice(
        "make test on Python 3.13, which THUMBWHEEL_PYTHON_3_13 names (default python3.13)",
        covers=EVERYTHING,
        pytest=OF_MAKE_TEST,
        python=os.environ.get("THUMBWHEEL_PYTHON_3_13", "python3.13"),
    ),
    "mutants": Slice(
        "each known bug of training is planted and must be caught",
        covers=(*TRAINING, "tests/mutants", "tests/training"),
        program=("tests.mutants",),
    ),
    "oracle": Slice(
        "losses of training against TRL's",
        covers=("training/losses", "training/rl", "training/stages", "tests/oracle"),
        program=("tests.oracle",),
    ),
}


@dataclass(frozen=True)
class Result:
    """Result of a slice, stored as a line of docs/long-tests.jsonl.

    `clean`: the working tree had no uncommitted change.
    """

    commit: str
    clean: bool
    date: str
    slice: str
    result: str
    passed: int
    failed: int
    skipped: int
    seconds: int


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.long_tests", description=__doc__)
    parser.add_argument(
        "slices", nargs="*", metavar="SLICE", help=f"all if none is named: {', '.join(SLICES)}"
    )
    parser.add_argument(
        "--check", action="store_true", help="run nothing; warn about slices that are not recent"
    )
    parser.add_argument(
        "--current", action="store_true", help="run nothing; fail if a slice is not current"
    )
    arguments = parser.parse_args(words)
    if unknown := [name for name in arguments.slices if name not in SLICES]:
        parser.error(f"SLICE: {', '.join(unknown)} is unknown; allowed are {', '.join(SLICES)}")
    if arguments.check or arguments.current:
        outdated = outdated_slices(0 if arguments.current else MAX_COMMITS)
        for message in outdated:
            print(f"warning: {message}" if arguments.check else message)
        return 1 if arguments.current and outdated else 0
    results = [run(name) for name in arguments.slices or SLICES]
    for one in results:
        print(
            f"==> {one.slice}: {one.result} in {one.seconds} s "
            f"({one.passed} passed, {one.failed} failed)",
            flush=True,
        )
    return 0 if all(one.result == "passed" for one in results) else 1


def run(name: str) -> Result:
    """Run a slice and append its result to the record."""
    chosen = SLICES[name]
    print(f"==> {name}: {chosen.about}", flush=True)
    started = time.monotonic()
    for module in chosen.modules:
        subprocess.run([sys.executable, "-m", *module], cwd=ROOT, check=True)
    cores = os.sched_getaffinity(0)
    # Beside the packages, which a clone then links.
    with tempfile.TemporaryDirectory(dir=cache() if chosen.python else None) as folder:
        report = Path(folder) / "report.xml"
        # `record_property` of the fault matrix warns with pytest's default family of reports.
        options = (f"--timeout={TEST_SECONDS}", f"--junitxml={report}", "--override-ini")
        pytest = ("pytest", *options, "junit_family=xunit1", *chosen.pytest)
        root, python = ROOT, sys.executable
        if chosen.python:
            root = Path(folder) / "clone"
            python = clone_with(chosen.python, root)
        command = [python, "-m", *(chosen.program or pytest)]
        os.sched_setaffinity(0, sorted(cores)[: chosen.cores or None])
        done = subprocess.run(
            command, cwd=root, env={**os.environ, **chosen.environment}, check=False
        )
        os.sched_setaffinity(0, cores)
        passed, failed, skipped = counts(report) if report.exists() else (0, 0, 0)
    result = Result(
        commit=git("rev-parse", "--short", "HEAD"),
        clean=not git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/*.jsonl"),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        slice=name,
        # A run in which every test was skipped proves nothing.
        result="passed" if done.returncode == 0 and (chosen.program or passed) else "failed",
        passed=passed,
        failed=failed,
        skipped=skipped,
        seconds=round(time.monotonic() - started),
    )
    with RECORD.open("a") as lines:
        lines.write(json.dumps(asdict(result)) + "\n")
    return result


def clone_with(python: str, folder: Path) -> str:
    """Clone HEAD and install its environment with this Python; return the environment's Python."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    installed = str(folder / ".venv" / "bin" / "python")
    subprocess.run([python, "infra/install/environment.py", "dev"], cwd=folder, check=True)
    subprocess.run([installed, "-m", "infra.install.requirements"], cwd=folder, check=True)
    return installed


def counts(report: Path) -> tuple[int, int, int]:
    """Return the numbers of passed, failed and skipped tests of a JUnit report."""
    suite = next(ET.parse(report).getroot().iter("testsuite"))
    total, failures, errors, skipped = (
        int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")
    )
    return total - failures - errors - skipped, failures + errors, skipped


def outdated_slices(max_commits: int) -> list[str]:
    """Return a message for each slice whose last pass is missing or older than `max_commits`.

    The age of a pass is the number of later commits that changed paths of the slice. Passes with
    uncommitted changes, and passes of commits that this clone lacks, do not count.
    """
    recorded = (
        [json.loads(line) for line in RECORD.read_text().splitlines()] if RECORD.exists() else []
    )
    passed = {
        one["slice"]: one["commit"]
        for one in recorded
        if one["result"] == "passed" and one["clean"]
    }
    messages = []
    for name, chosen in SLICES.items():
        age = commits_since(passed[name], chosen.covers) if name in passed else None
        if age is None:
            messages.append(f"make test-long SLICE={name} has no passing run on record")
        elif age > max_commits:
            messages.append(
                f"make test-long SLICE={name} last passed before {age} commits to its paths "
                f"(limit {max_commits})"
            )
    return messages


def commits_since(commit: str, paths: Sequence[str]) -> int | None:
    """Return the number of commits after `commit` that changed `paths`; None without the commit."""
    done = subprocess.run(
        ["git", "rev-list", "--count", f"{commit}..HEAD", "--", *paths, *ALL_COVER],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return int(done.stdout) if done.returncode == 0 else None


def git(*words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
