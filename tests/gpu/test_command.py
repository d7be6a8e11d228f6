"""`make test-gpu` on machines without a GPU, and with the description of a card."""

import json
import subprocess
import sys
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from infra.docs import gpu as page
from infra.docs.gpu import Counts, Figures
from infra.machine.servers.vllm import BUILD_VARIABLE, CPU, GPU, PYTHON_VARIABLE, chosen_build
from tests.gpu import __main__ as command
from tests.gpu import driver
from tests.gpu.driver import NO_GPU, Card, NoGpuError, find_cards
from tests.gpu.serving import ANSWER_TOKENS, STREAMS, served_tokens_per_second
from tests.gpu.speed import Load, measure, speed_of, stages
from tests.long_tests import ROOT
from training.errors import ConfigError
from training.model.config import llama_json
from training.parallelism.layout import Parallelism
from training.planning.accelerators import ACCELERATORS, DEVICES, accelerator_of_device
from training.planning.layout import Layout
from training.planning.timing import model_operations
from training.planning.work import DataSize, work_of
from training.runtime.context import Machine

H100 = Card("NVIDIA H100 80GB HBM3", "580.65.06", 81_559)
TINY = Load(
    llama_json(400, 32, 2, 4, 2, 64) | {"model_type": "qwen3"},
    prompt_tokens=12,
    response_tokens=8,
    rows=4,
    steps=1,
)
ON_CPU = Machine(threads=1, device="cpu", dtype="bfloat16")


def install_driver(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put an `nvidia-smi` alone on PATH."""
    program = folder / driver.PROGRAM
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_cards_are_those_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(tmp_path, monkeypatch, f'echo "{H100.name}, 580.65.06, 81559"')
    assert find_cards() == [H100]


@pytest.mark.parametrize(
    ("script", "named"),
    [
        (None, "not on PATH"),
        ('echo "driver not loaded" >&2; exit 9', "driver not loaded"),
        ("true", "ended with 0"),
        ('echo "No devices were found"', "No devices were found"),
    ],
)
def test_without_a_card_the_command_ends_with_a_reason_and_no_record(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    script: str | None,
    named: str,
) -> None:
    if script is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        install_driver(tmp_path, monkeypatch, script)
    monkeypatch.setattr(page, "RECORD", tmp_path / "gpu.jsonl")
    monkeypatch.setattr(command, "run_parts", lambda *_: pytest.fail("the parts began"))
    assert command.main([]) == NO_GPU != 0
    assert named in capsys.readouterr().err
    assert not page.RECORD.exists()


def test_the_first_step_needs_no_package(tmp_path: Path) -> None:
    """`make test-gpu` runs it by the system's Python before the installation."""
    isolated = (sys.executable, "-S", "-m", driver.__name__)
    done = subprocess.run(
        isolated, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == NO_GPU, done.stderr
    assert driver.PROGRAM in done.stderr


def test_a_card_that_torch_cannot_use_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(tmp_path, monkeypatch, f'echo "{H100.name}, 580.65.06, 81559"')
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(NoGpuError, match=rf"{H100.name}.*580\.65\.06"):
        command.usable_card()


def test_unknown_part_is_refused() -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(["train"])
    assert caught.value.code == 2


def test_only_cards_with_known_figures_have_a_peak() -> None:
    assert accelerator_of_device(H100.name) == ACCELERATORS["h100"]
    # Their rates differ from those of the SXM variant.
    assert accelerator_of_device("NVIDIA H100 PCIe") is None
    assert accelerator_of_device("NVIDIA GeForce RTX 5090") is None
    assert {*DEVICES.values()} == {*ACCELERATORS}


def test_figures_of_a_step(tmp_path: Path) -> None:
    """4 rows of 20 tokens in 2 s; MFU is the share of the peak, absent without a peak."""
    _, config = stages(tmp_path, TINY, ON_CPU)["sft"]
    size = DataSize(rows=8, prompt_tokens=12, response_tokens=8)
    h100 = ACCELERATORS["h100"]
    found = speed_of("sft", config, size, TINY.model, 2.0, h100)
    assert found.tokens_per_second == 4 * 20 / 2
    work = work_of(config, size, TINY.model, Layout(1, Parallelism()))
    assert found.mfu == model_operations(work) / 2 / 989.4e12
    assert speed_of("sft", config, size, TINY.model, 2.0, None).mfu is None


def test_a_model_that_does_not_fit_is_refused_before_the_start(tmp_path: Path) -> None:
    small = replace(ACCELERATORS["l4"], memory_gib=1e-3)
    with pytest.raises(ConfigError) as caught:
        list(measure(tmp_path, TINY, ON_CPU, small))
    assert (caught.value.field, caught.value.reason) == ("sft", "TOO_LARGE")
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_recorded_and_failures_set_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, tuple[str, ...]]] = []
    failed = 0

    def run_tests(name: str, arguments: Any) -> Counts:
        ran.append((name, tuple(arguments)))
        return Counts(10, failed, 0)

    monkeypatch.setattr(command, "usable_card", lambda: H100)
    monkeypatch.setattr(command, "run_tests", run_tests)
    monkeypatch.setattr(page, "RECORD", tmp_path / "gpu.jsonl")
    monkeypatch.setattr(page, "main", lambda: None)
    assert command.main(["stages"]) == 0
    failed = 1
    assert command.main(["stages"]) == 1
    records = [json.loads(line) for line in page.RECORD.read_text().splitlines()]
    assert [one["tests"]["stages"]["failed"] for one in records] == [0, 1]
    assert {(one["card"], one["driver"]) for one in records} == {(H100.name, H100.driver)}
    assert all(one["torch"] and one["commit"] and one["date"] for one in records)
    (name, arguments), *_ = ran
    assert name == "stages"
    assert {"--device=cuda", "--dtype=bfloat16", *command.STAGE_TESTS} < {*arguments}
    assert [path for path in command.STAGE_TESTS if not (ROOT / path).exists()] == []


def test_every_stage_is_measured_and_a_card_that_is_too_small_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The path of `make test-gpu` with a tiny model on the CPU."""
    monkeypatch.setattr(command, "Load", lambda _: TINY)
    found = command.run_parts(["speed"], H100, "cpu")
    assert [one.what for one in found.figures] == ["sft", "reward_model", "ppo", "grpo"]
    for one in found.figures:
        assert one.dtype == "bfloat16"
        assert one.tokens_per_second > 0
        assert one.memory_gib is not None
        assert one.memory_gib > 0
        assert one.mfu is not None
        assert 0 < one.mfu < 0.01
    tiny = replace(ACCELERATORS["l4"], memory_gib=1e-3)
    monkeypatch.setattr(command, "accelerator_of_device", lambda _: tiny)
    refused = command.run_parts(["speed"], H100, "cpu")
    assert (refused.figures, refused.tests) == ((), {"speed": Counts(0, 1, 0)})


@pytest.mark.parametrize(
    ("installed", "failed", "measured"), [(True, 0, True), (True, 1, False), (False, 0, False)]
)
def test_vllm_is_measured_where_its_tests_pass(
    monkeypatch: pytest.MonkeyPatch, installed: bool, failed: int, measured: bool
) -> None:
    ran: list[tuple[str, ...]] = []

    def execute(words: tuple[str, ...], **_: object) -> subprocess.CompletedProcess[str]:
        ran.append(words)
        return subprocess.CompletedProcess(words, int(not installed), stdout="")

    speed = Figures("vLLM", "bfloat16", 100.0)
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    # Set by the command for its tests.
    monkeypatch.setenv(BUILD_VARIABLE, "")
    monkeypatch.setattr(command.subprocess, "run", execute)
    monkeypatch.setattr(command, "git", lambda *_: "")
    monkeypatch.setattr(command, "run_tests", lambda *_: Counts(8, failed, 0))
    monkeypatch.setattr(command, "measure_serving", lambda: speed)
    servers: list[object] = []
    monkeypatch.setattr(command, "rollout_server", lambda: "vllm")
    monkeypatch.setattr(command, "measure_stages", lambda *given: servers.append(given[-1]) or [])
    found = command.run_parts(["vllm", "speed"], H100, "cpu")
    assert servers == ["vllm" if measured else None]
    assert ran[0][-2:] == ("install", "vllm-gpu")
    assert found.tests["vllm"] == (Counts(8, failed, 0) if installed else Counts(0, 1, 0))
    assert found.figures == ((speed,) if measured else ())
    assert chosen_build() == (GPU if installed else CPU)


def test_a_given_vllm_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, "/opt/vllm/bin/python")
    monkeypatch.setenv(BUILD_VARIABLE, "")
    monkeypatch.setattr(command.subprocess, "run", lambda *_, **__: pytest.fail("installed"))
    monkeypatch.setattr(command, "run_tests", lambda *_: Counts(8, 0, 0))
    assert command.run_vllm_tests() == Counts(8, 0, 0)


@pytest.mark.long
def test_pytest_that_cannot_start_counts_as_a_failure() -> None:
    assert command.run_tests("none", ["tests/gpu/nowhere.py"]) == Counts(0, 1, 0)


@pytest.mark.long
def test_the_tests_of_stages_use_the_given_device() -> None:
    """The fake accelerator has no bfloat16; an unknown device fails."""
    chosen = ("tests/training/stages/test_sft.py", "-k", "learns_and_writes_a_model")
    assert command.run_tests("fake", ("--device=fake", *chosen)) == Counts(1, 0, 0)
    assert command.run_tests("unknown", ("--device=cuda:7", *chosen)) == Counts(0, 1, 0)
    narrow = ("--device=fake", "--dtype=bfloat16", *chosen)
    assert command.run_tests("bfloat16", narrow) == Counts(0, 1, 0)


class Completions(BaseHTTPRequestHandler):
    """A model server that answers with the requested number of tokens."""

    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body | {"key": self.headers["Authorization"]})
        answer = json.dumps({"usage": {"completion_tokens": body["max_tokens"]}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None: ...


def test_the_speed_of_a_server_counts_the_tokens_of_all_streams() -> None:
    asked: list[dict[str, Any]] = []
    handler = type("Handler", (Completions,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        speed = served_tokens_per_second(url, "key", "small-0")
        server.shutdown()
    assert speed > 0
    assert len(asked) == 1 + STREAMS
    assert {one["max_tokens"] for one in asked} == {ANSWER_TOKENS}
    assert {one["key"] for one in asked} == {"Bearer key"}
    assert len({tuple(one["prompt"]) for one in asked}) == 1 + STREAMS
