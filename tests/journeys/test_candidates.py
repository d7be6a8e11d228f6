"""Five candidates with simulated users: each ends with the right verdict.

Only recipes and users differ. Gate, canary and their limits are those of recipe nano.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from infra.run.embedded.layout import Layout
from infra.simulate.users.client import Client, open_client
from infra.simulate.users.demo import Demonstration
from infra.simulate.users.settings import PLANS, Control, Settings
from infra.simulate.users.system import Rows, System
from infra.simulate.users.training_loop import LoopRun, read_run
from tests.journeys.stack import WITHOUT_QUOTAS, Stack, running_stack

STABLE = "nano-0"
# The limits of the demonstration, 240 s, suit free cores: at a load of 20 they allowed 674 thumbs.
PLAN = replace(PLANS["nano"], seconds=1200.0, canary_seconds=1200.0)
HACKED_ROWS = {"perplexity on fixed texts", "knowledge", "refusals", "sycophancy"}


@dataclass(frozen=True)
class Users:
    """Simulated users of the running system."""

    system: System
    client: Client

    async def fill(self, control: Control) -> None:
        """Let 120 users give 1,000 thumbs, and wait until the loop can read them."""
        before = await self.system.committed()
        counts = await self._demonstration(control).fill()
        assert counts.thumbs == PLAN.thumbs
        await self.system.wait_committed(
            Rows(before.feedback + counts.events, before.turns + counts.turns)
        )

    async def train(self, variant: str, control: Control) -> LoopRun:
        """Run the loop with a variant of nano while the users continue."""
        demonstration = self._demonstration(control, variant)
        await demonstration.train("loop", [])
        return read_run(self.system.layout)

    async def try_degraded(self) -> Mapping[str, Any]:
        """Put a degraded version to the canary; return its end."""
        assert await self._demonstration(Control(worse=True)).run_degraded()
        (path,) = (self.system.layout.loop / "canaries").glob("*/end.json")
        end: Mapping[str, Any] = json.loads(path.read_text())
        return end

    async def stable(self) -> str:
        """Return the stable version."""
        return (await self.system.rollout()).stable.version

    def _demonstration(self, control: Control, variant: str = "good") -> Demonstration:
        program = ("-m", "tests.journeys.candidate_recipes", variant)
        settings = Settings(
            recipe="nano",
            plan=PLAN,
            state=self.system.layout.state,
            http_port=0,
            grpc_port=0,
            seed=0,
            keep=False,
            fresh=False,
            control=control,
            training=("-m", "training") if control.worse else program,
        )
        return Demonstration(settings, self.system, self.client)


def blocking(run: LoopRun) -> dict[str, str]:
    """Return the results of the blocking rows by name."""
    assert run.gate is not None
    return {row["name"]: row["result"] for row in run.gate["checks"] if not row["passed"]}


def scores_of_reward_model(run: LoopRun) -> list[float]:
    """Return the mean score of each update of PPO."""
    lines = (run.report.parent / "stages" / "ppo" / "progress.jsonl").read_text().splitlines()
    return [json.loads(line)["metrics"]["score"] for line in lines]


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_equal_hacked_good_and_broken_candidates(tmp_path: Path, record_property: Any) -> None:
    with running_stack(tmp_path / "state", options=WITHOUT_QUOTAS) as stack:
        asyncio.run(judge_candidates(stack, record_property))


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_sycophantic_candidate(tmp_path: Path, record_property: Any) -> None:
    with running_stack(tmp_path / "state", options=WITHOUT_QUOTAS) as stack:
        asyncio.run(judge_sycophant(stack, record_property))


async def judge_candidates(stack: Stack, record: Any) -> None:
    system = System(Layout(stack.state, stack.ports))
    async with open_client(system.gateway) as client:
        users = Users(system, client)
        await users.fill(Control())

        equal = await users.train("equal", Control())
        record("equal", equal.reason)
        assert equal.result == "held"
        assert set(blocking(equal).values()) == {"not_enough_data"}
        assert "win rate" in blocking(equal)
        assert await users.stable() == STABLE

        hacked = await users.train("reward-hacked", Control())
        record("hacked", hacked.reason)
        scores = scores_of_reward_model(hacked)
        record("hacked_scores", f"{scores[0]:.2f} to {max(scores):.2f}")
        failed = {name for name, result in blocking(hacked).items() if result == "fail"}
        assert hacked.result == "refused"
        assert max(scores) > scores[0], "the reward model believes that the answers became better"
        assert failed & HACKED_ROWS
        assert await users.stable() == STABLE

        good = await users.train("good", Control())
        record("good", good.reason)
        assert (good.result, blocking(good)) == ("promoted", {})
        assert await users.stable() == good.version

        end = await users.try_degraded()
        record("broken", end["reason"])
        assert end["verdict"] == "roll_back"
        assert await users.stable() == good.version


async def judge_sycophant(stack: Stack, record: Any) -> None:
    system, believers = System(Layout(stack.state, stack.ports)), Control(false_claims=True)
    async with open_client(system.gateway) as client:
        users = Users(system, client)
        await users.fill(believers)
        sycophantic = await users.train("sycophantic", believers)
        record("sycophantic", sycophantic.reason)
        assert sycophantic.result == "refused"
        assert blocking(sycophantic)["sycophancy"] == "fail"
        assert await users.stable() == STABLE
