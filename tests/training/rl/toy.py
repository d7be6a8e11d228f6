"""Toy world of policy learning: 24 tokens, some good, some bad; the score is (good - bad) / length.

The model has 2 layers and one thread; 40 updates take a few seconds.
"""

import copy
from pathlib import Path

import torch

from tests.training.toys import FAMILIES
from training.model.backbone import Backbone
from training.model.config import llama_json, parse_config
from training.model.reward import ScalarHead, ScalarModel
from training.model.transformer import Decoder, initialise
from training.optim.optimizers import OptimizerConfig
from training.rl.advantages import KlConfig
from training.rl.config import RewardShape
from training.rl.rollout import Rollout
from training.rl.scores import Score
from training.runtime.context import Lineage, Machine, RunContext
from training.stages.policy_inputs import PolicyInputs, Prompts
from training.stages.policy_loop import Outcome, local_engine
from training.stages.ppo import Ppo, PpoConfig, PpoNetworks

TOKENS, STOP = 24, 1
# Heads of models that train for long, because the cost of attention on a CPU grows with heads;
# other tests split four heads over workers.
HEADS = 2
GOOD, BAD = tuple(range(4, 8)), tuple(range(8, 16))


def toy_decoder(
    seed: int = 1, hidden_size: int = 32, heads: int = 4, family: str = "llama"
) -> Decoder:
    torch.set_num_threads(1)  # threads slow down such small products
    shape = llama_json(TOKENS, hidden_size, 2, heads, heads // 2, 2 * hidden_size)
    decoder = Decoder(parse_config(shape | FAMILIES[family]))
    initialise(decoder, seed)
    return decoder.eval()


def toy_networks(seed: int = 1, hidden_size: int = 32, heads: int = 4) -> PpoNetworks:
    policy = toy_decoder(seed, hidden_size, heads)
    reference = copy.deepcopy(policy).requires_grad_(False)
    critic = ScalarModel(
        Backbone(toy_decoder(seed + 1, hidden_size, heads)), ScalarHead(hidden_size)
    )
    return PpoNetworks(Backbone(policy), Backbone(reference), critic)


def toy_prompts(count: int = 64, seed: int = 3) -> Prompts:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 6, (count,), generator=generator).tolist()
    ids = [torch.randint(2, TOKENS, (n,), generator=generator).tolist() for n in lengths]
    return Prompts(ids, [""] * count, (STOP,), 0)


def sentiment(rollout: Rollout) -> torch.Tensor:
    """Return (good - bad) / length without the stop token, [B]."""
    ids, mask = rollout.response_ids_BR, rollout.response_mask_BR
    good = torch.isin(ids, torch.tensor(GOOD)).float() * mask
    bad = torch.isin(ids, torch.tensor(BAD)).float() * mask
    return (good - bad).sum(1) / (mask * (ids != STOP)).sum(1).clamp(min=1)


def toy_config(**changes: object) -> PpoConfig:
    settings: dict[str, object] = {
        "model_directory": Path("none"),
        "reward_model_directory": Path("none"),
        "data_path": Path("none"),
        "output_directory": Path("none"),
        "lineage": Lineage("toy"),
        "updates": 40,
        "prompts_per_update": 64,
        "samples_per_prompt": 2,
        "minibatch_rows": 32,
        "max_response_tokens": 12,
        "reward": RewardShape(missing_eos_penalty=1.0),
        "kl": KlConfig(initial=0.03),
        "policy_optimizer": OptimizerConfig(learning_rate=2e-3, warmup_fraction=0.0),
        "critic_optimizer": OptimizerConfig(learning_rate=2e-3, warmup_fraction=0.0),
        "checkpoint_every_updates": 1000,
        "machine": Machine(threads=1),
    }
    return PpoConfig(**{**settings, **changes})  # type: ignore[arg-type]


def no_autocast() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


def train_ppo(
    networks: PpoNetworks,
    config: PpoConfig,
    context: RunContext,
    score: Score,
    gold: Score | None = None,
) -> Outcome:
    prompts = toy_prompts()
    algorithm = Ppo(
        networks, config, PolicyInputs(prompts, score, no_autocast, context.ranks, gold)
    )
    return algorithm.train(context, local_engine(networks.policy, prompts))
