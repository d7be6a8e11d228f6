"""Rollouts by a real predictor that the trainer starts, with nano in float32."""

import os
import signal
from pathlib import Path

import pytest
import torch

from tests.servers import descendants
from tests.support.errors import refused
from tests.training.rl.rollout_server.nano_policy import SampledPolicy, sampled_policy
from training.errors import ConfigError
from training.model.lora import LoraConfig
from training.rl.rollout import CachedEngine, Rollout, SampleRequest, response_log_probs
from training.serving.rollout_server import RolloutServer, ServedType, ServerEngine

FLOAT32 = RolloutServer(ServerEngine.PREDICTOR, ServedType.FLOAT32)


@torch.no_grad()
def mismatch(trainer: SampledPolicy, rollout: Rollout) -> float:
    """Return the mean |difference| of log-probs in nats per token."""
    log_probs_BR = response_log_probs(trainer.policy, rollout, 1.0)
    difference_BR = (log_probs_BR - rollout.log_probs_BR).abs()
    return float(difference_BR.sum() / rollout.response_mask_BR.sum())


def server_processes() -> set[int]:
    """Return the predictors that this process has started, those of other tests included."""
    commands = {pid: Path(f"/proc/{pid}/cmdline") for pid in descendants(os.getpid())}
    return {pid for pid, path in commands.items() if b"services.predictor" in path.read_bytes()}


def test_server_follows_the_weights_and_ends_with_the_run() -> None:
    others = server_processes()
    with sampled_policy(FLOAT32, LoraConfig(rank=2)) as trainer:
        trainer.send()
        first = mismatch(trainer, trainer.sample())
        trainer.send(learned=0.1)
        second = mismatch(trainer, trainer.sample())
        assert len(server_processes() - others) == 1
    assert server_processes() == others
    assert max(first, second) < 1e-4


@pytest.mark.long
def test_server_that_is_killed_is_started_again_with_the_newest_weights() -> None:
    others = server_processes()
    with sampled_policy(FLOAT32) as trainer:
        trainer.send()
        trainer.send(learned=0.02)
        before = trainer.sample()
        for pid in server_processes() - others:
            os.kill(pid, signal.SIGKILL)
        after = trainer.sample()
        for pid in server_processes() - others:
            os.kill(pid, signal.SIGKILL)
        trainer.send(learned=0.02)
        assert mismatch(trainer, trainer.sample()) < 1e-4
    assert torch.equal(before.response_ids_BR, after.response_ids_BR)


@pytest.mark.long
def test_greedy_responses_are_those_of_the_own_sampler() -> None:
    with sampled_policy(FLOAT32) as trainer:
        trainer.send()
        trainer.send(learned=0.005)
        served = trainer.sample(temperature=0.0, max_new=40)
        seeds = range(len(trainer.prompts))
        request = SampleRequest.of(trainer.prompts, 2, 40, 0.0, seeds)
        own = CachedEngine(trainer.policy, trainer.stop_ids).sample(request)
    assert torch.equal(served.response_ids_BR, own.response_ids_BR)
    assert torch.equal(served.ended_B, own.ended_B)


def test_memory_below_one_response_is_refused() -> None:
    settings = RolloutServer(ServerEngine.PREDICTOR, ServedType.FLOAT32, kv_gigabytes=1e-6)
    with (
        sampled_policy(settings) as trainer,
        refused(ConfigError, field="rollout_server.kv_gigabytes", reason="TOO_SMALL"),
    ):
        trainer.send()
