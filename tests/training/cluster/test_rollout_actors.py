"""Rollout actors: sampling, assignment to workers, and lost actors.

Under Ray every process dies once.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import ActorDiedError, GetTimeoutError, RayTaskError

from tests.support.errors import refused
from tests.training.cluster.killed_run import ACTOR_DIES, UPDATES, grpo_config, write_inputs
from training.artifacts.manifest import verify_manifest
from training.cluster.group import Group
from training.cluster.rollout_actors import (
    TRIES,
    ActorCopies,
    RolloutActors,
    RolloutActorsError,
    Sampler,
    WeightStore,
    rollout_actors,
)
from training.data.chat import load_chat
from training.errors import ConfigError
from training.progress_log import read_lines, read_progress
from training.rl.networks import open_networks
from training.rl.rollout import CachedEngine, Rollout, SampleRequest
from training.rl.samplers import SamplingPlan
from training.runtime.ranks import ALONE, Ranks
from training.stages.policy_inputs import network_sources, read_data

COMMAND = [sys.executable, "-m", "tests.training.cluster.killed_run"]


def test_actor_samples_with_the_requested_weights_and_loads_them_once(
    tmp_path: Path,
) -> None:
    write_inputs(tmp_path)
    config = grpo_config(tmp_path, "out")
    prompts = read_data(config, load_chat(config.model_directory))
    sources = network_sources(config, prompts.vocabulary)
    policies = [open_networks(sources, with_reference=False).policy for _ in range(2)]
    with torch.no_grad():
        for _, parameter in policies[1].named_parameters():
            parameter.add_(0.3)
    loads: list[str] = []

    def find(label: str) -> tuple[str, Callable[[], Mapping[str, Any]]]:
        def load() -> Mapping[str, Any]:
            loads.append(label)
            return {
                name: parameter.detach().numpy()
                for name, parameter in policies[int(label)].named_parameters()
            }

        return label, load

    sampler, request = Sampler(), SampleRequest.of(prompts.ids[:3], 2, 6, 1.0, [1, 2, 3])
    for label in ("0", "1", "1", "0"):
        rollout = sampler.sample(
            lambda _, label=label: find(label), sources, prompts.stop_ids, "update-4", request
        )  # type: ignore[misc]
        expected = CachedEngine(policies[int(label)], prompts.stop_ids).sample(request)
        assert rollout.version == "update-4"
        assert torch.equal(rollout.response_ids_BR, expected.response_ids_BR)
        assert torch.equal(rollout.log_probs_BR, expected.log_probs_BR)
    assert loads == ["0", "1", "0"]
    other = replace(sources, vocabulary=None)
    assert (
        sampler.sample(lambda _: find("0"), other, prompts.stop_ids, "update-4", request).version
        == "update-4"
    )
    assert loads[3:] == ["0"], "another policy has none of them"


def test_store_keeps_the_newest_two_versions() -> None:
    store = WeightStore()
    for update in (0, 1, 0, 2):  # 0 again, as after the start of another stage
        store.put(f"update-{update}", [update])
    assert [store.get("update-0"), store.get("update-2")] == [[0], [2]]
    with pytest.raises(LookupError, match=r"\bupdate-1\b.*\bupdate-0\b.*\bupdate-2\b"):
        store.get("update-1")


def test_actors_are_divided_among_workers() -> None:
    plan = SamplingPlan(None, (), 1, lambda _: asked_for(1))  # type: ignore[arg-type]

    def shared(actors: int, workers: int) -> list[list[str]]:
        handles = RolloutActors(None, [f"actor {n}" for n in range(actors)])
        return [
            list(handles.open(plan, Ranks(r, workers, r, workers))._actors) for r in range(workers)
        ]

    assert shared(5, 2) == [["actor 0", "actor 2", "actor 4"], ["actor 1", "actor 3"]]
    assert shared(2, 3) == [["actor 0"], ["actor 1"], ["actor 0"]]


def asked_for(prompts: int) -> SampleRequest:
    return SampleRequest.of([[2 + row] for row in range(prompts)], 1, 1, 1.0, range(prompts))


def answer_to(request: SampleRequest) -> Rollout:
    ids = torch.tensor(request.token_ids)
    ones, zeros = torch.ones_like(ids), torch.zeros(ids.shape)
    return Rollout(ids, ones, ids, ones, zeros, torch.ones(len(ids), dtype=torch.bool), "update-0")


@dataclass
class FakeActor:
    """Fake of an actor handle; `remote` returns a request, which `get` answers."""

    fails: Exception | None = None
    request: list[SampleRequest] = field(default_factory=list)

    @property
    def answer(self) -> "FakeActor":
        return self

    def remote(
        self,
        _store: object,
        _sources: object,
        _stop_ids: object,
        _version: str,
        request: SampleRequest,
    ) -> object:
        self.request.append(request)
        return self, request


def get(question: tuple[FakeActor, SampleRequest], timeout: float) -> Rollout:
    actor, request = question
    if actor.fails is not None:
        raise actor.fails
    return answer_to(request)


@pytest.fixture
def copies_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[FakeActor]], ActorCopies]:
    monkeypatch.setattr(ray, "get", get)
    plan = SamplingPlan(None, (), 1, lambda _: asked_for(1))  # type: ignore[arg-type]
    return lambda actors: ActorCopies(None, actors, plan, ALONE)


@pytest.mark.parametrize("fails", [ActorDiedError(), GetTimeoutError()])
def test_part_of_a_lost_actor_is_requested_from_another(
    copies_of: Callable[[list[FakeActor]], ActorCopies], fails: Exception
) -> None:
    actors = [FakeActor(), FakeActor(fails), FakeActor()]
    rollout = copies_of(actors).begin(asked_for(6), "update-0")()
    assert rollout.response_ids_BR.flatten().tolist() == [2, 3, 4, 5, 6, 7]
    assert [len(actor.request) for actor in actors] == [1, 1, 2]
    assert actors[2].request[1] == actors[1].request[0]


def test_number_of_tried_actors_is_limited(
    copies_of: Callable[[list[FakeActor]], ActorCopies],
) -> None:
    actors = [FakeActor(ActorDiedError()) for _ in range(2)]
    with refused(RolloutActorsError, field="update-0", reason="UNREACHABLE"):
        copies_of(actors).begin(asked_for(1), "update-0")()
    assert sum(len(actor.request) for actor in actors) == TRIES


def test_error_of_an_actor_is_raised_unchanged(
    copies_of: Callable[[list[FakeActor]], ActorCopies],
) -> None:
    refusal = ConfigError("lora: no", field="lora", reason="CONFLICT", limit="none")
    failed = RayTaskError(
        "answer", "traceback", pickle.loads(pickle.dumps(refusal))
    )  # wrapped as by Ray
    with refused(ConfigError, field="lora", reason="CONFLICT", limit="none") as caught:
        copies_of([FakeActor(failed)]).begin(asked_for(1), "update-0")()
    assert str(caught.value) == str(refusal)


def test_actors_need_workers() -> None:
    with refused(ConfigError, field="rollout_actors", reason="CONFLICT"):
        Group(rollout_actors=2)
    with refused(ConfigError, field="rollout_actors", reason="OUT_OF_RANGE", limit="at least 0"):
        Group(workers=1, rollout_actors=-1)
    with rollout_actors(0, {}) as none:
        assert none is None


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_model_is_bit_identical_after_kills_of_actor_worker_and_driver(
    tmp_path: Path,
) -> None:
    write_inputs(tmp_path)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for expected in (-signal.SIGKILL, 0):
        command = [*COMMAND, str(tmp_path)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=400, check=False, env=environment
        )
        assert done.returncode == expected, done.stdout + done.stderr
    straight, killed = (
        tmp_path / "runs" / name / "progress.jsonl" for name in ("straight", "killed")
    )
    # An actor's death restarts no workers; workers resume from checkpoint 4 after a worker's death,
    # and from 6 after the driver's.
    taken = [line.progress.step for line in read_lines(killed)]
    assert taken == [1, 2, ACTOR_DIES, 4, 5, 5, 6, 7, 7, UPDATES]
    assert [line.progress.step for line in read_lines(straight)] == list(range(1, UPDATES + 1))
    assert [step.metrics for step in read_progress(killed)] == [
        step.metrics for step in read_progress(straight)
    ]
    # With sampling ahead, the sampling weights are not always the newest.
    assert any(
        step.metrics["importance"] != pytest.approx(1.0, abs=1e-4)
        for step in read_progress(straight)
    )
    one, other = (verify_manifest(tmp_path / name) for name in ("straight", "killed"))
    assert one.files["model.safetensors"] == other.files["model.safetensors"]
