"""Thumbs train a model in the form of Llama 3 that real vLLM serves, its CPU build.

The steps are those of `thumbwheel demo --recipe auto --users nano --server vllm`: vLLM answers the
users, samples the rollouts of PPO, and serves the candidate next to the stable version.
"""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.run.embedded.model_server import ModelServer
from infra.simulate.users.__main__ import demo, find_or_prepare
from infra.simulate.users.settings import Control, Settings, select_plan
from tests.llama_loop import ARGUMENTS, UPDATES
from training.recipes.nano_world.bases import BASES
from training.recipes.nano_world.train_base import cached_base

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]

# 500 thumbs left the reward model within noise of a coin.
THUMBS = 1500
# On a busy machine a step of vLLM takes seconds.
ANSWER_SECONDS, MINUTES = 300, 20.0
ASSIGNED = (
    "ppo.rollout_server.engine=vllm",
    "ppo.rollout_server.dtype=float32",
    "ppo.rollout_server.arguments=--enforce-eager",
)
MISMATCH_NATS = 1e-3  # of rollouts in float32


def test_thumbs_lead_to_a_decision_on_a_version_that_vllm_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TW_VLLM_SERVER_ARGUMENTS", '["--dtype=float32", "--enforce-eager"]')
    for name in ("FIRST_TOKEN", "IDLE"):
        monkeypatch.setenv(f"TW_GENERATOR_{name}_SECONDS", str(ANSWER_SECONDS))
    model = cached_base(BASES["llama"], "", lambda progress: None)
    plan = replace(
        select_plan("auto", "nano"),
        model=str(model),
        loop=ARGUMENTS,
        thumbs=THUMBS,
        people=THUMBS // 8,
        seconds=MINUTES * 60,
        canary_seconds=MINUTES * 60,
    )
    state = tmp_path / "state"
    settings = Settings(
        recipe="auto",
        plan=plan,
        state=state,
        http_port=0,
        grpc_port=0,
        seed=0,
        keep=False,
        fresh=False,
        control=Control(),
        server=ModelServer.VLLM,
        assignments=ASSIGNED,
    )
    state.mkdir()
    asyncio.run(demo(settings, *find_or_prepare(settings)))

    run = state / "loop" / "runs" / "auto-1"
    config, seen = read(run / "config.json"), read(state / "demo.json")
    assert config["ppo"]["rollout_server"]["engine"] == "vllm"
    updates = [
        json.loads(line)["metrics"]
        for line in (run / "stages" / "ppo" / "progress.jsonl").read_text().splitlines()
    ]
    assert len(updates) == UPDATES
    assert max(update["sampler_mismatch"] for update in updates) < MISMATCH_NATS
    assert seen["crowd"]["up"] + seen["crowd"]["down"] == THUMBS
    assert seen["companions"]["by_version"]["auto-1"] > 0
    # The candidate's vLLM starts cold beside the warm one of the incumbent, so the canary may find
    # its first text late. A version that is not served has no win rate.
    turn = seen["turn"]
    if turn["result"] == "rolled back":
        assert turn["reason"].startswith("first text"), turn["reason"]
        assert seen["served"] == turn["incumbent"]
    else:
        assert turn["result"] == "promoted", turn["reason"]
        assert seen["served"] == "auto-1"
        # Better than chance; the demonstration claims more.
        assert seen["win_rate"]["low"] > 0.5


def read(file: Path) -> Any:
    return json.loads(file.read_text())
