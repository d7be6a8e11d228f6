"""Policies that a model server samples: weights by version, samples, and faults of servers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tests.support.errors import refused
from tests.support.model_server import KEY, running
from tests.support.tokenizers_with_markers import write_tokenizer
from tests.training.rl.rollout_server.policy_model_server import PolicyModelServer
from tests.training.rl.toy import (
    STOP,
    TOKENS,
    no_autocast,
    sentiment,
    toy_config,
    toy_decoder,
    toy_networks,
    toy_prompts,
)
from tests.training.toys import ProgressList
from training.errors import ConfigError
from training.model.backbone import Backbone
from training.model.checkpoint import save_decoder
from training.model.lora import LoraConfig
from training.rl.correction import StaleRolloutError
from training.rl.networks import Sources, open_networks
from training.rl.rollout import Rollout, SampleRequest, response_log_probs
from training.rl.rollout_server.copies import ServerCopies, ServerSamplers, check_response
from training.rl.rollout_server.server import RolloutServerError
from training.rl.rollout_server.weight_sync import DeadSyncError, SamplerMismatchError
from training.rl.samplers import SamplingPlan
from training.runtime.context import Progress, RunContext
from training.runtime.ranks import ALONE
from training.runtime.training_state import DirectoryCheckpoints
from training.serving.connection import EndpointError, RefusedError, ResponseError
from training.serving.endpoint import SampledTokens, TokenizerMismatchError
from training.serving.rollout_server import RolloutServer, ServedType, ServerEngine
from training.serving.vllm_command import PYTHON_VARIABLE
from training.stages.policy_inputs import PolicyInputs, network_sources
from training.stages.policy_loop import rollout_engines
from training.stages.ppo import Ppo, PpoNetworks
from training.tokenization.byte_pairs import bytes_by_letter

LORA = LoraConfig(rank=2)


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.serving.connection.BACKOFF_SECONDS", 0.0)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    save_decoder(toy_decoder(), tmp_path / "base")
    return tmp_path / "base"


@contextmanager
def served(
    base: Path, key: str = KEY, **faults: Any
) -> Iterator[tuple[PolicyModelServer, RolloutServer]]:
    """Run a server, and yield it with the settings of a run that uses it."""
    key_file = base.parent / "key"
    key_file.write_text(f"{key}\n")
    with running(PolicyModelServer(base=base, **faults)) as server:
        yield (
            server,
            RolloutServer(dtype=ServedType.FLOAT32, address=server.url, key_file=key_file),
        )


def trained(
    base: Path, settings: RolloutServer, lora: LoraConfig | None = None, **changes: Any
) -> list[Progress]:
    """Train with rollouts of the server; return the progress of all updates."""
    small = {"updates": 2, "prompts_per_update": 4, "minibatch_rows": 8, "max_response_tokens": 6}
    config = replace(
        toy_config(**{**small, **changes}),
        model_directory=base,
        rollout_server=settings,
        lora=lora,
    )
    sources = replace(network_sources(config, None), reward_directory=None)
    opened = open_networks(sources, with_reference=True)
    assert opened.reference is not None
    networks = PpoNetworks(opened.policy, opened.reference, toy_networks().critic)
    progress, prompts = ProgressList(), toy_prompts()
    context = RunContext(DirectoryCheckpoints(base.parent / "checkpoints"), progress)
    algorithm = Ppo(networks, config, PolicyInputs(prompts, sentiment, no_autocast, ALONE))
    with rollout_engines(networks.policy, sources, prompts, config, context) as engines:
        algorithm.train(context, engines)
    return progress.steps


@pytest.mark.parametrize("lora", [None, LORA], ids=["all weights", "adapter"])
def test_log_probs_of_every_update_are_those_of_the_trainer(
    base: Path, lora: LoraConfig | None
) -> None:
    with served(base) as (server, settings):
        steps = trained(base, settings, lora)

    assert [step.metrics["sampler_mismatch"] < 1e-5 for step in steps] == [True] * 2
    assert abs(steps[-1].metrics["kl"]) > 1e-3, "the weights have changed"
    sent = [path for path, _ in server.requests if path not in ("/v1/completions", "/v1/models")]
    if lora is None:
        reload = ["/pause?mode=wait", "/collective_rpc", "/reset_prefix_cache", "/resume"]
        assert sent == [*reload, "/update_weight_version"] * 2
    else:
        load, unload = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
        assert sent == [load, load, unload]


def test_server_with_another_base_fails_the_run_unless_its_mismatch_is_allowed(base: Path) -> None:
    other = base.parent / "other"
    save_decoder(toy_decoder(seed=5), other)
    with served(other) as (_, settings):
        with refused(
            SamplerMismatchError,
            field="rollout_server.mismatch_limit_nats",
            reason="SAMPLER_MISMATCH",
            limit="at most 0.001",
        ):
            trained(base, settings, LORA, updates=1)
        steps = trained(base, replace(settings, mismatch_limit_nats=50.0), LORA, updates=1)
    assert steps[0].metrics["sampler_mismatch"] > 1e-3


def test_server_is_started_by_the_interpreter_of_the_environment(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = base.parent / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\necho started by this interpreter\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setenv(PYTHON_VARIABLE, str(python))
    with refused(EndpointError, reason="NOT_SERVED") as caught:
        trained(base, RolloutServer(dtype=ServedType.FLOAT32), updates=1)
    assert "this interpreter" in str(caught.value)


@dataclass
class Trainer:
    """A policy with its copies in a server."""

    copies: ServerCopies
    policy: Backbone
    updates: int = 0

    def send(self, learned: bool = True) -> None:
        """Send the weights, after a change if `learned`."""
        if learned and self.updates:
            generator = torch.Generator().manual_seed(self.updates)
            with torch.no_grad():
                for _, weight in self.policy.named_parameters():
                    weight += torch.randn(weight.shape, generator=generator) * 0.02
        self.copies.take(f"update-{self.updates}", dict(self.policy.named_parameters()))
        self.updates += 1

    def sample(
        self, max_new: int = 6, prompts: Sequence[Sequence[int]] = ((2, 3), (4,))
    ) -> Rollout:
        request = SampleRequest.of(prompts, 2, max_new, 1.0, range(len(prompts)))
        return self.copies.begin(request, f"update-{self.updates - 1}")()


@contextmanager
def trainer(
    base: Path,
    lora: LoraConfig | None = None,
    window_tokens: int = 12,
    stop_ids: tuple[int, ...] = (STOP,),
    **faults: Any,
) -> Iterator[tuple[PolicyModelServer, Trainer]]:
    """Yield a server, and a trainer whose policy it samples."""
    with served(base, **faults) as (server, settings), ServerSamplers(settings) as samplers:
        sources = Sources(base, None, lora, None, 0)
        policy = open_networks(sources, with_reference=False).policy
        plan = SamplingPlan(
            sources,
            stop_ids,
            updates=3,
            request=lambda update: SampleRequest.of((), 1, 1, 1.0, ()),
            policy=policy,
            fixed_prompts=toy_prompts().ids,
            window_tokens=window_tokens,
        )
        yield server, Trainer(samplers.open(plan, ALONE), policy)


@pytest.mark.parametrize("lora", [None, LORA], ids=["all weights", "adapter"])
def test_server_that_ignores_new_weights_fails_the_run(base: Path, lora: LoraConfig | None) -> None:
    with trainer(base, lora, ignores_weights=True) as (_, policy):
        policy.send()
        policy.send(learned=False)
        with refused(DeadSyncError, field="rollout_server", reason="DEAD_WEIGHT_SYNC") as caught:
            policy.send()
    assert "update-0" in str(caught.value) and "update-2" in str(caught.value)


def test_server_that_keeps_keys_and_values_of_old_weights_fails_the_run(base: Path) -> None:
    with trainer(base, keeps_cache=True) as (_, policy):
        policy.send()
        with refused(DeadSyncError, field="rollout_server"):
            policy.send()


def test_truncated_log_probs_fail_the_run(base: Path) -> None:
    with (
        trainer(base, truncates_log_probs=True) as (_, policy),
        refused(ResponseError, field="logprobs", reason="UNUSABLE_RESPONSE"),
    ):
        policy.send()


def test_response_that_continues_after_its_end_fails_the_run(base: Path) -> None:
    with trainer(base, stop_ids=(*range(TOKENS),), ignores_stop_ids=True) as (_, policy):
        policy.send()
        with refused(ResponseError, field="response"):
            policy.sample()


@pytest.mark.parametrize("normalizer", [None, normalizers.NFKC()])
def test_server_at_an_address_with_another_tokenizer_is_refused(
    base: Path, normalizer: normalizers.Normalizer | None
) -> None:
    tokenizer = Tokenizer(models.BPE(vocab=bytes_by_letter(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    write_tokenizer(base, tokenizer)
    with trainer(base) as (_, policy):
        if normalizer is None:
            policy.send()
            return
        with refused(TokenizerMismatchError, field="tokenizer", reason="MISMATCH"):
            policy.send()


def test_server_at_an_address_that_dies_fails_the_run(base: Path) -> None:
    with trainer(base) as (server, policy):
        policy.send()
        server.dies_after = server.sampled + 2
        with refused(RolloutServerError, field="rollout_server", reason="UNREACHABLE"):
            policy.sample()


def test_failed_push_to_an_address_fails_the_run(base: Path) -> None:
    with trainer(base) as (server, policy):
        policy.send()
        server.fail_after = len(server.requests)
        with refused(RolloutServerError, field="rollout_server", reason="UNREACHABLE"):
            policy.send()


def test_smaller_window_than_prompts_and_responses_is_refused(base: Path) -> None:
    with (
        trainer(base, window_tokens=101, window=100) as (_, policy),
        refused(
            ConfigError,
            field="max_prompt_tokens + max_response_tokens",
            reason="TOO_LARGE",
            limit="at most 100",
        ),
    ):
        policy.send()


def test_request_beyond_the_window_and_of_old_weights_is_refused(base: Path) -> None:
    with trainer(base, window=12) as (_, policy):
        policy.send()
        with refused(RefusedError, field="input_tokens"):
            policy.sample(max_new=11)
        policy.updates += 1
        with refused(StaleRolloutError, field="version", reason="MISMATCH"):
            policy.sample()


def test_wrong_key_is_reported(base: Path) -> None:
    with (
        trainer(base, key="another-key") as (_, policy),
        refused(EndpointError, field="key", reason="UNAUTHENTICATED"),
    ):
        policy.send()


@pytest.mark.long
def test_responses_of_3000_tokens_have_the_trainers_log_probs(tmp_path: Path) -> None:
    base = tmp_path / "base"
    save_decoder(toy_decoder(hidden_size=8, heads=2), base)
    with trainer(base, window_tokens=3010, stop_ids=()) as (_, policy):
        policy.send()
        rollout = policy.sample(3000, [(2, 3, 4)])
    assert rollout.response_mask_BR.sum() == 2 * 3000 and not rollout.ended_B.any()
    with torch.no_grad():
        log_probs_BR = response_log_probs(policy.policy, rollout, 1.0)
    torch.testing.assert_close(log_probs_BR, rollout.log_probs_BR, atol=1e-3, rtol=0)


def test_samples_depend_on_the_seed_of_the_prompt_and_on_the_copy(base: Path) -> None:
    with trainer(base) as (server, policy):
        policy.send()
        server.requests.clear()
        first, second = (policy.sample() for _ in range(2))
    sampled = [body for _, body in server.requests]
    assert len({body["seed"] for body in sampled}) == 4
    assert {(body["top_p"], body["top_k"], body["temperature"]) for body in sampled} == {(1, 0, 1)}
    assert torch.equal(first.response_ids_BR, second.response_ids_BR)
    assert torch.equal(first.prompt_ids_BP, torch.tensor([[2, 3], [2, 3], [0, 4], [0, 4]]))


def test_only_the_newest_weights_stay_on_the_disk(base: Path) -> None:
    with trainer(base) as (server, policy):
        policy.send()
        policy.send()
        loaded = [body["kwargs"]["weights_path"] for path, body in server.requests if "rpc" in path]
        assert [Path(path).exists() for path in loaded] == [False, True]
    assert not Path(loaded[1]).parent.exists()


@pytest.mark.parametrize(
    ("sampled", "words"),
    [
        (SampledTokens((5, 99, 1), (-1.0,) * 3, "stop"), "vocabulary"),
        (SampledTokens((5, 1, 1), (-1.0,) * 3, "stop"), "continues"),
        (SampledTokens((5,) * 3001, (-1.0,) * 3001, "length"), "3000"),
        (SampledTokens((5, 6), (-1.0,) * 2, "stop"), "token 6"),
        (SampledTokens((5, 6), (-1.0,) * 2, "length"), "cut off"),
    ],
)
def test_unusable_responses_are_refused(sampled: SampledTokens, words: str) -> None:
    with refused(ResponseError, field="response") as caught:
        check_response(sampled, 3000, (1,), TOKENS)
    assert words in str(caught.value)


def test_usable_responses_are_accepted() -> None:
    check_response(SampledTokens((5, 1), (-1.0,) * 2, "stop"), 3000, (1,), TOKENS)
    check_response(SampledTokens((5,) * 3000, (-1.0,) * 3000, "length"), 3000, (1,), TOKENS)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"temperature": 0.7}, "temperature"),
        ({"max_staleness_updates": 1, "importance_cap": 2.0}, "max_staleness_updates"),
        ({"lora": LORA, "vocabulary_rows": 8}, "vocabulary_rows"),
    ],
)
def test_settings_that_a_server_cannot_follow_are_refused(
    changes: dict[str, Any], field: str
) -> None:
    with refused(ConfigError, field=field, reason="CONFLICT"):
        toy_config(rollout_server=RolloutServer(), **changes)


def test_unsupported_number_type_is_refused() -> None:
    with refused(ConfigError, field="dtype", reason="UNSUPPORTED", limit="float32, uint8"):
        RolloutServer(ServerEngine.PREDICTOR, ServedType.BFLOAT16)
