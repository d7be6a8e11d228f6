"""Samplers in other processes: responses, weights per update, and resumed runs."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from tests.support.errors import refused
from tests.training.rl.toy import no_autocast, sentiment, toy_config, toy_networks, toy_prompts
from tests.training.toys import KillAfter, Killed, ProgressList
from training.model.backbone import Backbone
from training.rl.correction import StaleRolloutError
from training.rl.rollout import CachedEngine, Rollout, SampleRequest
from training.rl.samplers import RemoteSampling, SamplingPlan, Weights, join, split
from training.runtime.context import Progress, RunContext
from training.runtime.ranks import ALONE, Ranks
from training.runtime.training_state import DirectoryCheckpoints
from training.stages.policy_inputs import PolicyInputs, network_sources
from training.stages.policy_loop import (
    local_engine,
    rollout_engines,
    rollout_request,
    sample_rollout,
)
from training.stages.ppo import Ppo, PpoConfig, PpoNetworks


@dataclass
class CopiesHere:
    """Copies of the policy in this process, which answer on demand with the received weights."""

    backbone: Backbone
    stop_ids: tuple[int, ...]
    parts: int = 3
    kept: dict[str, Weights] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def open(self, plan: SamplingPlan, ranks: Ranks) -> "CopiesHere":
        return self

    def take(self, version: str, weights: Weights) -> None:
        self.told.append(f"take {version}")
        self.kept[version] = {name: weight.clone() for name, weight in weights.items()}

    def begin(self, request: SampleRequest, version: str) -> Callable[[], Rollout]:
        self.told.append(f"begin {version}")

        def answer() -> Rollout:
            with torch.no_grad():
                for name, parameter in self.backbone.named_parameters():
                    parameter.copy_(self.kept[version][name])
            engine = CachedEngine(self.backbone, self.stop_ids, version)
            return join([engine.sample(part) for part in split(request, self.parts)])

        return answer


def copies_of(networks: PpoNetworks, parts: int = 3) -> CopiesHere:
    """Return copies with other weights until they receive some."""
    return CopiesHere(toy_networks(seed=7).policy, toy_prompts().stop_ids, parts)


def short_config(**changes: object) -> PpoConfig:
    return toy_config(
        **{
            "updates": 7,
            "prompts_per_update": 8,
            "minibatch_rows": 8,
            "max_response_tokens": 6,
            **changes,
        }
    )


def trained(
    config: PpoConfig,
    runs: Path,
    copies: CopiesHere,
    checkpoints: DirectoryCheckpoints | None = None,
) -> tuple[list[Progress], PpoNetworks]:
    networks, prompts, progress = toy_networks(), toy_prompts(), ProgressList()
    context = RunContext(checkpoints or DirectoryCheckpoints(runs), progress, samplers=copies)
    algorithm = Ppo(networks, config, PolicyInputs(prompts, sentiment, no_autocast, ALONE))
    sources = network_sources(config, None)
    with rollout_engines(networks.policy, sources, prompts, config, context) as engines:
        algorithm.train(context, engines)
    return progress.steps, networks


def weights_of(networks: PpoNetworks) -> list[torch.Tensor]:
    return [
        parameter.detach()
        for _, parameter in (
            *networks.policy.named_parameters(),
            *networks.critic.named_parameters(),
        )
    ]


@pytest.mark.parametrize("parts", [1, 3, 50])
def test_copies_sample_like_the_policy(parts: int) -> None:
    networks, prompts, config = toy_networks(), toy_prompts(), short_config()
    copies = copies_of(networks, parts)
    context = RunContext(DirectoryCheckpoints(Path("none")), ProgressList(), samplers=copies)
    sources = network_sources(config, None)
    with rollout_engines(networks.policy, sources, prompts, config, context) as apart:
        for update in range(2):
            one, other = (
                sample_rollout(e(update), prompts, update, config, ALONE)
                for e in (local_engine(networks.policy, prompts), apart)
            )
            assert (one.version, one.tasks) == (other.version, other.tasks)
            for name in (
                "prompt_ids_BP",
                "prompt_mask_BP",
                "response_ids_BR",
                "response_mask_BR",
                "ended_B",
            ):
                assert torch.equal(getattr(one, name), getattr(other, name)), name
            torch.testing.assert_close(one.log_probs_BR, other.log_probs_BR, atol=1e-5, rtol=0)
    # 16 rows; a part with a single prompt has other columns than the whole.
    assert one.response_mask_BR.shape == (16, one.response_ids_BR.shape[1])


def test_each_update_uses_its_own_weights_and_none_follows_the_last(
    tmp_path: Path,
) -> None:
    copies = copies_of(toy_networks())
    trained(short_config(updates=3), tmp_path, copies)
    assert copies.told == [f"{what} update-{u}" for u in range(3) for what in ("take", "begin")]


def test_next_update_is_sampled_ahead_of_the_current_one(tmp_path: Path) -> None:
    copies = copies_of(toy_networks())
    config = short_config(max_staleness_updates=1, importance_cap=2.0, checkpoint_every_updates=3)
    steps, _ = trained(config, tmp_path, copies)
    assert copies.told == [
        *("take update-0", "begin update-0", "begin update-0"),  # updates 0 and 1
        *(
            "take update-1",
            "begin update-1",
        ),  # update 2; update 3 can follow a checkpoint, so it waits for weights 3
        *("take update-3", "begin update-3", "begin update-3"),
        *("take update-4", "begin update-4"),
        *("take update-6", "begin update-6"),
    ]
    mismatch = [step.metrics["sampler_mismatch"] for step in steps]
    assert [difference > 1e-4 for difference in mismatch] == [
        False,
        True,
        True,
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("staleness", [0, 1])
def test_resumed_run_uses_the_same_weights_and_is_bit_identical(
    tmp_path: Path, staleness: int
) -> None:
    config = short_config(
        max_staleness_updates=staleness, importance_cap=2.0, checkpoint_every_updates=2
    )
    straight, one = trained(config, tmp_path / "straight", copies_of(toy_networks()))
    with pytest.raises(Killed):
        trained(
            config,
            tmp_path / "killed",
            copies_of(toy_networks()),
            KillAfter(tmp_path / "killed", 4),
        )
    resumed, other = trained(config, tmp_path / "killed", copies_of(toy_networks()))
    assert [step.step for step in resumed] == [5, 6, 7]
    assert [step.metrics for step in resumed] == [step.metrics for step in straight[4:]]
    assert all(map(torch.equal, weights_of(one), weights_of(other)))


def test_old_or_different_weights_are_rejected(tmp_path: Path) -> None:
    class Late(CopiesHere):
        def begin(self, request: SampleRequest, version: str) -> Callable[[], Rollout]:
            return super().begin(request, min(self.kept))

    copies = Late(toy_networks(seed=7).policy, toy_prompts().stop_ids)
    with refused(StaleRolloutError, field="max_staleness_updates", limit="at most 0") as caught:
        trained(short_config(), tmp_path, copies)
    assert "update-0" in str(caught.value)
    part = CachedEngine(copies.backbone, (1,), "update-3").sample(
        SampleRequest.of([[2]], 1, 2, 1.0, [1])
    )
    with refused(StaleRolloutError, field="version", reason="MISMATCH") as caught:
        join([part, replace(part, version="update-4")])
    assert re.findall(r"update-\d", str(caught.value)) == ["update-3", "update-4"]


def test_request_must_equal_the_started_request() -> None:
    prompts, config = toy_prompts(), short_config()
    copies = copies_of(toy_networks())
    plan = SamplingPlan(
        network_sources(config, None),
        (1,),
        7,
        lambda update: rollout_request(update, prompts, config, ALONE),
    )
    engine = RemoteSampling(copies, dict, plan)(0)
    with pytest.raises(ValueError, match=r"\brollout\b"):
        engine.sample(SampleRequest.of([[2, 3]], 1, 6, 1.0, [1]))


def test_parts_are_nearly_equal_and_complete() -> None:
    def lengths(prompts: int, most: int) -> Sequence[int]:
        request = SampleRequest.of([[row] for row in range(prompts)], 2, 4, 1.0, range(prompts))
        parts = split(request, most)
        assert [row for part in parts for (row,) in part.token_ids] == [
            seed for part in parts for seed in part.seeds
        ]
        assert sum((part.token_ids for part in parts), ()) == request.token_ids
        return [len(part.token_ids) for part in parts]

    assert lengths(7, 3) == [2, 2, 3]
    assert lengths(2, 3) == [1, 1]
