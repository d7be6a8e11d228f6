"""A run of the loop with the small model: every row of its gate has data."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from infra.run.embedded.layout import Layout
from infra.simulate.users.client import open_client
from infra.simulate.users.demo import Demonstration
from infra.simulate.users.settings import PLANS, Control, Settings
from infra.simulate.users.system import Rows, System
from infra.simulate.users.training_loop import LoopRun, read_run
from tests.journeys.stack import WITHOUT_QUOTAS, Stack, running_stack
from training.evaluation.gate import Result
from training.evaluation.task_rows import RULES
from training.probes.items import Kind

# Fewer thumbs than in the demonstration, and time for busy machines.
PLAN = replace(PLANS["small"], thumbs=300, seconds=2400.0)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_every_row_of_the_gate_has_data_in_a_run_of_the_loop(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with running_stack(tmp_path / "state", "small", options=WITHOUT_QUOTAS) as stack:
        run = asyncio.run(one_run(stack))
    record_property("result", run.reason)
    assert run.gate is not None
    rows = {check["name"]: check for check in run.gate["checks"]}
    for name, check in rows.items():
        record_property(name, f"{check['result']}: {check['value']}")
    assert rows.keys() > set(RULES), "PPO and the evaluation ran"
    # A row without figures of items: "no score", or "a part of the items".
    assert [task for task in RULES if rows[task]["figures"] is None] == []
    assert rows[Kind.AGREEMENT]["result"] != Result.UNINFORMATIVE
    assert rows[Kind.GIVING_WAY]["result"] != Result.UNINFORMATIVE


async def one_run(stack: Stack) -> LoopRun:
    """Let users give their thumbs, then run the loop, without a rollout, while they continue."""
    system = System(Layout(stack.state, stack.ports))
    settings = Settings(
        recipe="small",
        plan=PLAN,
        state=stack.state,
        http_port=0,
        grpc_port=0,
        seed=0,
        keep=False,
        fresh=False,
        control=Control(),
        training=("-m", "tests.journeys.candidate_recipes", "short"),
    )
    async with open_client(system.gateway) as client:
        demonstration = Demonstration(settings, system, client)
        counts = await demonstration.fill()
        assert counts.thumbs == PLAN.thumbs
        await system.wait_committed(Rows(counts.events, counts.turns))
        # Without Ray's processes, which need a minute of two busy cores.
        await demonstration.train("loop", ["--workers", "0", "--no-rollout"])
    return read_run(system.layout)
