"""The stored rollout as text for operators."""

from pathlib import Path

import pytest

from services.generator.rollout.current_rollout import NOTHING_STORED
from services.generator.rollout.rollout import Candidate, Deployment, Halt, Rollout, WatchTerms
from services.generator.settings import GeneratorSettings
from services.generator.store.store import RolloutFile
from tests.services.generator.service import operate

STABLE = Rollout(stable=Deployment("v1", "/models/v1"))
# In the future, because a lease or watch that has ended is removed on reading.
END_US = 4_102_444_800_000_000
CANARY = STABLE.propose(Candidate("v2", "/models/v2", 0.25, END_US)).start("v2", END_US, END_US)
END = "2100-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("rollout", "lines"),
    [
        (STABLE, ["halt     none", "canary   none", "watch    none", "changes  none"]),
        (
            CANARY,
            [
                "stable   v1 in /models/v1",
                f"canary   v2, 25.0% of the users; ends at {END} unless its run extends it",
                f"changes  {END}  v2 started: share 0.25",
            ],
        ),
        (
            CANARY.promote("v2", "better", END_US, WatchTerms(0.1, 60_000_000)),
            [
                "watch    v1 keeps 10.0% of the users until 2100-01-01T00:01:00Z",
                f"changes  {END}  v2 promoted: better",
            ],
        ),
        (
            CANARY.halted(Halt(END_US, "ada", "odd answers")),
            [
                f"halt     since {END} by ada: odd answers",
                f"changes  {END}  v2 rolled back: halted: odd answers",
                f"         {END}  v2 started: share 0.25",
            ],
        ),
    ],
)
async def test_rollout_is_printed_for_operators(
    tmp_path: Path, rollout: Rollout, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = GeneratorSettings(rollout_file=tmp_path / "rollout.json")
    await RolloutFile(settings.rollout_file).replace(rollout, NOTHING_STORED.serial)
    assert await operate(settings, "rollout") == 0
    printed = capsys.readouterr().out
    assert set(lines) <= set(printed.splitlines()), printed
