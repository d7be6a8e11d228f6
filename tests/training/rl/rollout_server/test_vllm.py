"""Rollouts by a real vLLM, its CPU build, with a tiny Llama and a byte tokenizer in float32."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from infra.machine.servers.vllm import find_installed
from tests.services.predictor import checkpoints
from tests.services.predictor.model_directories import (
    END_ID,
    TEMPLATE,
    VOCAB_SIZE,
    byte_tokenizer,
    write_manifest,
)
from tests.support.errors import refused
from tests.training.rl.rollout_server.nano_policy import sampled_policy
from tests.training.toys import ProgressList
from training.model.lora import LoraConfig
from training.optim.optimizers import OptimizerConfig
from training.rl.rollout import CachedEngine, SampleRequest
from training.rl.rollout_server.weight_sync import DeadSyncError
from training.runtime.context import Lineage, Machine, RunContext
from training.runtime.training_state import DirectoryCheckpoints
from training.serving.endpoint import Endpoint
from training.serving.rollout_server import RolloutServer, ServedType, ServerEngine
from training.stages import ppo
from training.stages.ppo import PpoConfig

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]

# Longer than a block of keys and values, which has 128 tokens on CPUs.
QUESTIONS = [f"{n} and more? " * 16 for n in ("One", "Two", "Three", "Four")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model directory; vLLM's CPU build needs heads of at least 32."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    model = checkpoints.llama(vocab_size=VOCAB_SIZE, eos_token_id=END_ID, head_dim=32)
    checkpoints.reseed(model, 7)
    checkpoints.save(model, directory)
    byte_tokenizer().save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE}
    settings |= {"bos_token": "<s>", "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": END_ID}))
    write_manifest(directory, "tiny")
    return directory


@pytest.fixture(scope="module")
def settings() -> RolloutServer:
    return RolloutServer(
        ServerEngine.VLLM,
        ServedType.FLOAT32,
        python=find_installed(),
        concurrency=8,
        arguments=("--enforce-eager",),
    )


def trained(
    model: Path, settings: RolloutServer, directory: Path, **changes: Any
) -> list[dict[str, float]]:
    """Train PPO for two updates with rollouts of vLLM; return the figures of each."""
    rows = [{"messages": [{"role": "user", "content": question}]} for question in QUESTIONS]
    directory.mkdir()
    (directory / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = PpoConfig(
        model,
        directory / "prompts.jsonl",
        directory / "out",
        Lineage("out"),
        reward_model_directory=None,
        rollout_server=settings,
        updates=2,
        prompts_per_update=4,
        samples_per_prompt=2,
        minibatch_rows=8,
        max_prompt_tokens=300,
        max_response_tokens=12,
        kl_ceiling_nats=1000.0,
        length_floor_fraction=0.0,
        policy_optimizer=OptimizerConfig(learning_rate=3e-3, warmup_fraction=0.0),
        machine=Machine(threads=1),
    )
    progress = ProgressList()
    ppo.run(
        replace(config, **changes),
        RunContext(DirectoryCheckpoints(directory / "checkpoints"), progress),
        verifier=lambda answers: [float(len(answer.text) % 7) for answer in answers],
    )
    return [dict(step.metrics) for step in progress.steps]


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)], ids=["all weights", "adapter"])
def test_ppo_learns_from_rollouts_of_vllm(
    tiny: Path,
    settings: RolloutServer,
    tmp_path: Path,
    lora: LoraConfig | None,
    record_property: Callable[[str, object], None],
) -> None:
    steps = trained(tiny, settings, tmp_path / "run", lora=lora)
    for update, figures in enumerate(steps):
        record_property(f"mismatch_nats_{update}", figures["sampler_mismatch"])
    assert [figures["sampler_mismatch"] < 1e-3 for figures in steps] == [True, True]
    assert abs(steps[1]["kl"]) > 1e-3, "the second update was sampled with new weights"


@pytest.fixture
def silent_commands(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Return paths of commands that do not reach the server."""
    silent: set[str] = set()
    command = Endpoint.command

    def filtered(self: Endpoint, path: str, body: dict[str, Any] | None = None) -> None:
        if path not in silent:
            command(self, path, body)

    monkeypatch.setattr(Endpoint, "command", filtered)
    yield silent


def test_reload_is_verified(
    tiny: Path,
    settings: RolloutServer,
    silent_commands: set[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One server: greedy answers, weights that do not arrive, a cache that is not reset."""
    monkeypatch.setattr("tests.training.rl.rollout_server.nano_policy.QUESTIONS", QUESTIONS)
    monkeypatch.setattr("tests.training.rl.rollout_server.nano_policy.WINDOW_TOKENS", 400)
    with sampled_policy(settings, model=tiny) as trainer:
        trainer.send()
        trainer.send(learned=0.01)
        served = trainer.sample(temperature=0.0)
        request = SampleRequest.of(trainer.prompts, 2, 16, 0.0, range(4))
        own = CachedEngine(trainer.policy, trainer.stop_ids).sample(request)
        assert torch.equal(served.response_ids_BR, own.response_ids_BR)

        # A pause clears kept keys and values too.
        silent_commands |= {"/pause?mode=wait", "/reset_prefix_cache", "/resume"}
        with refused(DeadSyncError, field="rollout_server"):
            trainer.send(learned=0.01)
        silent_commands.clear()
        trainer.send(learned=0.01)
        silent_commands |= {"/collective_rpc"}
        with refused(DeadSyncError, field="rollout_server"):
            trainer.send(learned=0.01)
