"""Test and measure training and serving on an NVIDIA GPU (`make test-gpu`).

Usage: `python -m tests.gpu [PART ...]`. The parts, by default all:

- stages: the tests of SFT, reward model, PPO and GRPO that `make test` runs on the CPU, on the GPU
  in bfloat16
- vllm: the tests of the slice `vllm` with vLLM's CUDA build, and its tokens per second.
  THUMBWHEEL_VLLM_PYTHON names the Python of an installed vLLM to use instead
- speed: tokens per second and MFU of the four stages, and of PPO with rollouts by vLLM if the part
  vllm passed

Each run appends a line to docs/gpu.jsonl, from which the table in docs/training.md is generated.
Exit status: 0 all tests passed, 1 a test failed, 3 no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch

from infra.docs import gpu as page
from infra.docs.gpu import Counts, Figures, GpuRun
from infra.install.small_model.installation import SMALL_VERSION, install_small
from infra.machine.servers import vllm
from tests.gpu.driver import NO_GPU, Card, NoGpuError, find_cards
from tests.gpu.serving import STREAMS, served_tokens_per_second
from tests.gpu.speed import Load, measure
from tests.long_tests import ROOT, SLICES, TEST_SECONDS, counts, git
from training.errors import ConfigError
from training.model.fields import read_object
from training.planning.accelerators import accelerator_of_device
from training.recipes.open_models.recipes import SHAPES
from training.runtime.context import Machine
from training.serving.rollout_server import RolloutServer, ServedType, ServerEngine

DTYPE = "bfloat16"
# The speed comes last: its memory stays with this process, and vLLM takes nine tenths of a card.
PARTS = ("stages", "vllm", "speed")
STAGE_TESTS = tuple(
    f"tests/training/stages/test_{name}.py" for name in ("sft", "reward_model", "ppo", "grpo")
)
FAILED = Counts(0, 1, 0)
# Full training of the model fits a card of 24 GB.
MODEL = "qwen3-0.6b"


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parts = parser.parse_args(words).parts or PARTS
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"PART: {', '.join(unknown)} is unknown; allowed are {', '.join(PARTS)}")
    try:
        card = usable_card()
    except NoGpuError as error:
        print(f"==> {error}", file=sys.stderr)
        return NO_GPU
    run = run_parts(parts, card, "cuda")
    page.add(run, page.RECORD)
    page.main()
    print(f"==> {json.dumps(asdict(run), indent=1)}")
    return 1 if any(each.failed for each in run.tests.values()) else 0


def usable_card() -> Card:
    """Return the card that torch uses.

    Raises:
        NoGpuError: no card, torch cannot use it, or it has no bfloat16.
    """
    cards = find_cards()
    if torch.version.cuda is None or not torch.cuda.is_available():
        raise NoGpuError(
            f"the driver lists {cards[0].name}, but torch {torch.__version__} cannot use it "
            f"(CUDA of torch: {torch.version.cuda}, driver {cards[0].driver}, "
            f"CUDA_VISIBLE_DEVICES: {os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')})"
        )
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        raise NoGpuError(f"{cards[0].name} has no bfloat16")
    name = torch.cuda.get_device_name()
    return next((card for card in cards if card.name == name), cards[0])


def run_parts(parts: Sequence[str], card: Card, device: str) -> GpuRun:
    """Run the parts, in the order of PARTS."""
    tests: dict[str, Counts] = {}
    figures: list[Figures] = []
    if "stages" in parts:
        # Warnings of CUDA's libraries are unknown here and are no failures; on CPUs they are.
        warnings = ("-W", "default")
        options = (*warnings, "-m", "not cluster", f"--device={device}", f"--dtype={DTYPE}")
        tests["stages"] = run_tests("stages", (*options, *STAGE_TESTS))
    if "vllm" in parts:
        tests["vllm"] = run_vllm_tests()
        if not tests["vllm"].failed:
            figures.append(measure_serving())
    if "speed" in parts:
        has_vllm = "vllm" in tests and not tests["vllm"].failed
        try:
            figures += measure_stages(card, device, rollout_server() if has_vllm else None)
        except (ConfigError, torch.OutOfMemoryError) as error:
            print(f"==> speed: {error}", file=sys.stderr)
            tests["speed"] = FAILED
    return GpuRun(
        card=card.name,
        driver=card.driver,
        torch=torch.__version__,
        commit=git("rev-parse", "--short", "HEAD"),
        clean=not git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/*.jsonl"),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        model=MODEL,
        tests=tests,
        figures=tuple(figures),
    )


def run_vllm_tests() -> Counts:
    """Run the tests of the slice `vllm` with the CUDA build, or with the given vLLM."""
    if not os.environ.get(vllm.PYTHON_VARIABLE):
        command = (sys.executable, "-m", "infra.machine.servers", "install", vllm.GPU.name)
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            print(f"==> vllm: not installed; {vllm.PYTHON_VARIABLE} may name the Python of another")
            return FAILED
    os.environ[vllm.BUILD_VARIABLE] = vllm.GPU.name
    return run_tests("vllm", SLICES["vllm"].pytest)


def run_tests(name: str, arguments: Sequence[str]) -> Counts:
    """Run pytest and return the results; a run without any result counts as a failure."""
    print(f"==> {name}: tests", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = (f"--timeout={TEST_SECONDS}", f"--junitxml={report}", "--override-ini")
        pytest = ("pytest", *options, "junit_family=xunit1", *arguments)
        done = subprocess.run([sys.executable, "-m", *pytest], cwd=ROOT, check=False)
        passed, failed, skipped = counts(report) if report.exists() else (0, 0, 0)
    if done.returncode and not failed:
        failed = 1  # for example an error of collection
    return Counts(passed, failed, skipped)


def rollout_server() -> RolloutServer:
    """Return vLLM as rollout server, with a part of the card beside the trainer."""
    return RolloutServer(
        ServerEngine.VLLM,
        ServedType.BFLOAT16,
        python=vllm.find_installed(),
        arguments=("--gpu-memory-utilization=0.4",),
    )


def measure_stages(card: Card, device: str, server: RolloutServer | None) -> list[Figures]:
    """Return the speed of each stage, and of PPO with rollouts by the server."""
    load = Load(read_object(SHAPES / f"{MODEL}.json"))
    accelerator = accelerator_of_device(card.name)
    if accelerator is None:
        print(f"==> {card.name}: its bf16 peak is unknown, so MFU is left out", flush=True)
    machine, figures = Machine(dtype=DTYPE, device=device), []
    with tempfile.TemporaryDirectory() as folder:
        for one in measure(Path(folder), load, machine, accelerator, server):
            figures.append(
                Figures(one.stage, one.dtype, one.tokens_per_second, one.mfu, one.memory_gib)
            )
            print(f"==> {one}", flush=True)
    return figures


def measure_serving() -> Figures:
    """Return the speed of vLLM with the small model."""
    from tests.servers import VllmServer, running

    with tempfile.TemporaryDirectory() as folder:
        install_small(Path(folder) / "models", print)
        model = Path(folder) / "models" / SMALL_VERSION
        server = VllmServer(Path(folder) / "vllm", model, SMALL_VERSION, (f"--dtype={DTYPE}",))
        with running(server) as started:
            speed = served_tokens_per_second(started.vllm.url, started.vllm.key, SMALL_VERSION)
    return Figures(f"vLLM, {SMALL_VERSION}, {STREAMS} streams", DTYPE, speed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
