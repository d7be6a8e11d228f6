"""`make demo RECIPE=small`: all claims hold, whether the gate accepts the version or not."""

import json

import pytest

from tests.support.newcomer import Newcomer


@pytest.mark.long
@pytest.mark.timeout(2400)
@pytest.mark.executes("make demo RECIPE=small")
def test_claims_hold(newcomer: Newcomer) -> None:
    newcomer.run("make demo RECIPE=small", seconds=2300)
    state = newcomer.clone / ".state" / "demo-small"
    seen = json.loads((state / "demo.json").read_text())
    rollout = json.loads((state / "generator" / "rollout.json").read_text())
    assert rollout["stable"]["version"] == seen["served"]
