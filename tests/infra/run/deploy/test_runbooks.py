"""Blocks of the runbooks, run on a healthy release exactly as they are printed."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from infra.machine.cluster.errors import ClusterError
from tests.infra.run.deploy.deployed import SERVICES, Deployed
from tests.infra.run.deploy.runbook_runs import found_names, run_block, variables
from tests.support.runbooks import RESUME, SLOW, Block, all_blocks, block_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

# Each block waits mostly for the API server and for the start of Python in a pod.
AT_ONCE = 4
FEWEST_BLOCKS = 45


def distinct(blocks: list[Block]) -> list[Block]:
    """Return the blocks without repetitions of the same commands."""
    return list({block.commands: block for block in blocks}.values())


def failure(deployed: Deployed, block: Block) -> str:
    """Run a block; return its error, or an empty string."""
    try:
        return "" if run_block(deployed, block).strip() else "printed nothing"
    except ClusterError as error:
        return str(error)


def test_names_of_a_release_are_found_by_the_labels_of_an_alert(deployed: Deployed) -> None:
    assert found_names(deployed) == variables(deployed)


def test_every_block_for_a_healthy_release_succeeds(
    deployed: Deployed, record_property: Any
) -> None:
    deployed.settle()
    blocks = distinct([block for block in all_blocks() if block.is_quick])
    assert len(blocks) >= FEWEST_BLOCKS
    before, began = deployed.pods(*SERVICES, "predictor"), time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        errors = list(pool.map(lambda block: failure(deployed, block), blocks))
    record_property("blocks", len(blocks))
    record_property("seconds", round(time.monotonic() - began, 1))
    failed = {str(block): error for block, error in zip(blocks, errors, strict=True) if error}
    assert failed == {}
    assert deployed.pods(*SERVICES, "predictor") == before, "these blocks only read"


@pytest.mark.long
def test_every_action_for_a_healthy_release_succeeds(
    deployed: Deployed, record_property: Any
) -> None:
    """Restart services, compact, and halt and resume the rollout, one after another."""
    actions = distinct([block for block in all_blocks() if block.mark.startswith(SLOW)])
    try:
        failed = {str(block): error for block in actions if (error := failure(deployed, block))}
    finally:
        # Several pages halt for different reasons, and one block lifts every halt.
        shown = run_block(deployed, block_of("RolloutHalted", RESUME))
    record_property("actions", len(actions))
    deployed.settle()
    assert failed == {}
    assert re.search(r"^halt +none$", shown, re.MULTILINE), shown
