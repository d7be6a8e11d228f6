"""The speed of PPO with rollouts by vLLM is measured, here with a tiny model on the CPU."""

from pathlib import Path

import pytest

from infra.machine.servers.vllm import find_installed
from tests.gpu.speed import Load, measure
from training.model.config import llama_json
from training.planning.accelerators import ACCELERATORS
from training.runtime.context import Machine
from training.serving.rollout_server import RolloutServer, ServedType, ServerEngine

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]

# vLLM's CPU build needs heads of at least 32. The tokenizer has fewer tokens than the model.
LOAD = Load(
    llama_json(400, 128, 2, 4, 2, 128),
    prompt_tokens=24,
    response_tokens=8,
    rows=4,
    steps=1,
)


def test_ppo_with_rollouts_by_vllm_is_measured(tmp_path: Path) -> None:
    server = RolloutServer(
        ServerEngine.VLLM,
        ServedType.BFLOAT16,
        python=find_installed(),
        arguments=("--enforce-eager",),
    )
    machine, h100 = Machine(threads=1, device="cpu"), ACCELERATORS["h100"]
    found = {one.stage: one for one in measure(tmp_path, LOAD, machine, h100, server)}
    served = found["ppo, sampled by vllm"]
    assert served.tokens_per_second > 0
    assert served.mfu is not None
    assert served.mfu > 0
