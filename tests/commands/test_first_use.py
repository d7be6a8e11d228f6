"""The commands of README.md until a first answer, and until a run on the user's own ratings."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.commands.pages import commands, snippet
from tests.journeys.stack import Stack
from tests.support.newcomer import Newcomer
from training.runs import Runs, read_status

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
INSTALLATION_SECONDS = 600.0
(CLIENT,) = (command for command in commands() if command.startswith("python3 -m venv"))
(PEOPLE,) = (command for command in commands() if " people " in command)
SECOND = "make up STATE=.state-other PORT=8180 GRPC_PORT=51061"
DECIDED = {"promoted", "rolled back", "refused", "held"}


def ask(newcomer: Newcomer, system: Stack, state: str = ".state") -> str:
    """Run the code of README.md against a system and return the answer."""
    replaced = {"127.0.0.1:8080": f"127.0.0.1:{system.ports['http']}"}
    if state != ".state":
        replaced[".state/owner.key"] = f"{state}/owner.key"
    return newcomer.run_python(snippet(), "~/openai/bin/python", replaced).strip()


@pytest.mark.executes("make up", CLIENT, snippet(), "make loop", SECOND, ".venv/bin/thumbwheel")
def test_first_answer_and_a_second_system(newcomer: Newcomer) -> None:
    with newcomer.running("make up", seconds=INSTALLATION_SECONDS) as system:
        newcomer.run(CLIENT, seconds=INSTALLATION_SECONDS)
        assert ask(newcomer, system)
        newcomer.run("make loop")
        status = read_status(newcomer.clone / ".state" / "loop")
        assert status is not None and status.result == "not_enough_feedback"
        with newcomer.running(SECOND, ".state-other") as other:
            assert ask(newcomer, other, ".state-other")
    newcomer.run(".venv/bin/thumbwheel")
    assert newcomer.run("git status --short") == ""


@pytest.mark.executes("make stack")
def test_first_answer_on_real_servers(newcomer: Newcomer) -> None:
    newcomer.run(CLIENT, seconds=INSTALLATION_SECONDS)
    state = ".state/stack"
    with newcomer.running("make stack", state, INSTALLATION_SECONDS) as system:
        assert ask(newcomer, system, state)
        newcomer.run("make loop STATE=.state/stack")
        status = read_status(newcomer.clone / state / "loop")
        assert status is not None and status.result == "not_enough_feedback"


def canary_counts(loop: Path, run: str) -> bool:
    """Return whether the canary of a run has counted ratings of both versions."""
    status = read_status(loop)
    if status is None or status.run != run:
        return False
    (canary,) = (step for step in status.steps if step.name == "canary")
    return canary.detail != "" and " 0 users" not in canary.detail


@pytest.mark.executes("make up MODEL=nano", "make loop", PEOPLE)
def test_runs_on_ratings_by_hand_and_periodic(newcomer: Newcomer) -> None:
    loop_folder = newcomer.clone / ".state" / "loop"
    runs = Runs(loop_folder)
    with newcomer.running("make up MODEL=nano", seconds=INSTALLATION_SECONDS):
        newcomer.run(PEOPLE, seconds=300)
        with ThreadPoolExecutor(1) as thread:
            loop = thread.submit(newcomer.run, "make loop", seconds=1200)
            while not loop.done():  # the canary needs further ratings
                newcomer.run(PEOPLE, seconds=300)
            loop.result()
    (first,) = runs.names()
    result = runs.result(first)
    assert result is not None and result.result in DECIDED
    with newcomer.running("make up MODEL=nano LOOP_EVERY=6h", seconds=INSTALLATION_SECONDS):
        end = time.monotonic() + 1200
        while len(runs.names()) < 2 or (result := runs.result(runs.names()[1])) is None:
            # The canary of two similar versions may stay undecided for its 30 minutes.
            if len(runs.names()) == 2 and canary_counts(loop_folder, runs.names()[1]):
                return
            assert time.monotonic() < end, "the canary of the periodic run counts no ratings"
            newcomer.run(PEOPLE, seconds=300)
        assert result.result in DECIDED
