"""The whole system on one machine with real vLLM, its CPU build, in the place of the predictor."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from infra.run.embedded.environment import loop_environment
from tests.journeys.client import Client, text_of
from tests.journeys.served_samples import check_served_samples
from tests.journeys.stack import Stack, running_stack
from tests.journeys.version_copies import copy_of
from training.evaluation.canary import Verdict
from training.remote import RolloutClient
from training.service_identity import FOLDER, OPERATOR, ServiceIdentity
from training.serving.vllm_command import PYTHON_VARIABLE

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]

CANDIDATE, USERS = "nano-1", 12
# On a busy machine a start takes minutes, and a step of vLLM seconds.
START_SECONDS, ANSWER_SECONDS, POLL_SECONDS = 1500.0, 300, 1.0
# Time limits of an answer that a busy machine exceeds.
PATIENT = (
    "GENERATOR_FIRST_TOKEN",
    "GENERATOR_IDLE",
    *(f"GATEWAY_{name}" for name in ("GUARD", "ENHANCER", "SESSION", "FIRST_TEXT", "IDLE")),
)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Run a system that is served by vLLM; at its end no process of vLLM is left."""
    state = tmp_path_factory.mktemp("vllm") / "state"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TW_VLLM_SERVER_ARGUMENTS", '["--dtype=float32"]')
        for name in PATIENT:
            environment.setenv(f"TW_{name}_SECONDS", str(ANSWER_SECONDS))
        options = ("--server", "vllm")
        with running_stack(state, options=options, start_seconds=START_SECONDS) as stack:
            yield stack
    assert vllm_processes(state) == {}


def vllm_processes(state: Path) -> dict[str, int]:
    """Return the process of vLLM for each version of a state folder."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().split("\0")
        except OSError:
            continue
        options = dict(word.partition("=")[::2] for word in words)
        if options.get("--model", "").startswith(str(state)):
            found[options["--served-model-name"]] = int(folder.name)
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(POLL_SECONDS)


def test_samples_of_vllm_reach_training_with_the_trainers_log_probs(system: Stack) -> None:
    # The limit of rollouts in float32.
    check_served_samples(system, limit_nats=1e-3, answer_seconds=ANSWER_SECONDS)
    assert Path(loop_environment(system.state)[PYTHON_VARIABLE]).is_file()


def test_candidate_is_a_second_vllm_and_is_rolled_back(system: Stack) -> None:
    keys = [system.make_keys(f"user-{n}")[0] for n in range(USERS)]
    users = [Client(system.http, key, seconds=ANSWER_SECONDS) for key in keys]
    operator = ServiceIdentity(OPERATOR, system.state / FOLDER / f"{OPERATOR}.key")
    target = f"127.0.0.1:{system.ports['generator']}"
    with closing(RolloutClient(target, None, 60.0, operator)) as rollout:
        stable = rollout.view().stable
        folder = copy_of(system.state / "models" / stable, CANDIDATE)
        rollout.start(CANDIDATE, folder, 0.5, START_SECONDS)
        assert vllm_processes(system.state).keys() == {stable, CANDIDATE}
        answers = [user.ask("hello") for user in users]
        assert all(text_of(events) for events in answers)
        assert {events[0]["started"]["modelVersion"] for events in answers} == {stable, CANDIDATE}
        rollout.finish(CANDIDATE, Verdict.ROLL_BACK, "a test")
        wait_for(lambda: vllm_processes(system.state).keys() == {stable})
    answers = [user.ask("hello") for user in users[:4]]
    assert {events[0]["started"]["modelVersion"] for events in answers} == {stable}
