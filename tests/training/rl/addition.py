"""Addition of digits below six for GRPO: "a+b=" and its digits, with a policy half-trained by SFT.

An update has 200 responses, because groups of 16 for 8 prompts collapsed in the reference run.
"""

import copy
from functools import lru_cache
from pathlib import Path

import torch

from tests.training.rl.toy import no_autocast
from tests.training.toys import ProgressList
from training.data.tensors import TokenisedExample, response_batch
from training.losses.log_probs import batch_loss
from training.model.backbone import Backbone
from training.model.config import llama_json, parse_config
from training.model.transformer import Decoder, initialise
from training.optim.learner import Learner
from training.optim.optimizers import OptimizerConfig
from training.rl.networks import Networks
from training.rl.rollout import Rollout
from training.rl.scores import Score
from training.runtime.context import Lineage, Machine, Progress, RunContext
from training.runtime.ranks import ALONE
from training.runtime.training_state import DirectoryCheckpoints
from training.stages.grpo import Grpo, GrpoConfig
from training.stages.policy_inputs import PolicyInputs, Prompts
from training.stages.policy_loop import local_engine

PLUS, EQUALS, STOP = 10, 11, 12
SUMS = [(a, b) for a in range(6) for b in range(6)]
SFT_STEPS, SFT_ROWS = 40, 64
UPDATES = 26
HEADS = 2  # on a CPU the cost of attention grows with the number of heads


def prompt_of(a: int, b: int) -> list[int]:
    return [a, PLUS, b, EQUALS]


def answer_of(a: int, b: int) -> list[int]:
    return [*map(int, str(a + b)), STOP]


def right(rollout: Rollout) -> torch.Tensor:
    """Return 1 for responses that are the sum and end there, [B]."""
    rows = zip(
        rollout.tasks,
        rollout.response_ids_BR.tolist(),
        rollout.response_mask_BR.sum(1).tolist(),
        strict=True,
    )
    return torch.tensor(
        [float(ids[:length] == answer_of(*map(int, task.split("+")))) for task, ids, length in rows]
    )


@lru_cache
def _trained(seed: int, steps: int) -> Decoder:
    torch.set_num_threads(1)  # threads slow down such small products
    decoder = Decoder(parse_config(llama_json(13, 64, 2, HEADS, 1, 128)))
    initialise(decoder, seed)
    policy = Backbone(decoder.eval())
    learner = Learner(
        policy.named_parameters(),
        OptimizerConfig(learning_rate=2e-3, schedule="constant"),
        steps,
        ALONE,
    )
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        drawn = [
            SUMS[i] for i in torch.randint(len(SUMS), (SFT_ROWS,), generator=generator).tolist()
        ]
        batch = response_batch(
            [TokenisedExample(tuple(prompt_of(*s)), tuple(answer_of(*s))) for s in drawn]
        )
        torch.autograd.backward(batch_loss(policy, batch, float(batch.response_mask_BT.sum())))
        learner.step(step)
    return decoder


def half_trained(seed: int) -> Decoder:
    """Return a policy that samples correct sums about three times in ten."""
    return copy.deepcopy(_trained(seed, SFT_STEPS))


def beginner(seed: int) -> Decoder:
    """Return a policy that starts with digits and ends responses, sufficient for one update."""
    return copy.deepcopy(_trained(seed, 12))


def addition_config(seed: int, **changes: object) -> GrpoConfig:
    settings: dict[str, object] = {
        "model_directory": Path("none"),
        "reward_model_directory": None,
        "data_path": Path("none"),
        "output_directory": Path("none"),
        "lineage": Lineage("sums"),
        "updates": UPDATES,
        "prompts_per_update": 25,
        "samples_per_prompt": 8,
        "minibatch_rows": 50,
        "max_response_tokens": 4,
        "kl_coefficient": 0.0,
        "kl_ceiling_nats": None,
        "length_floor_fraction": 0.0,
        "policy_optimizer": OptimizerConfig(
            learning_rate=2e-3, warmup_fraction=0.2, final_fraction=0.0, betas=(0.9, 0.99)
        ),
        "checkpoint_every_updates": 1000,
        "seed": seed,
        "machine": Machine(threads=1),
    }
    return GrpoConfig(**{**settings, **changes})  # type: ignore[arg-type]


def learn(config: GrpoConfig, score: Score, runs: Path) -> list[Progress]:
    progress = ProgressList()
    learn_in(RunContext(DirectoryCheckpoints(runs), progress), config, score)
    return progress.steps


def learn_in(context: RunContext, config: GrpoConfig, score: Score) -> Decoder:
    """Train; return the policy."""
    decoder = half_trained(config.seed)
    reference = (
        Backbone(copy.deepcopy(decoder).requires_grad_(False)) if config.kl_coefficient else None
    )
    networks = Networks(Backbone(decoder), reference)
    prompts = Prompts([prompt_of(a, b) for a, b in SUMS], [f"{a}+{b}" for a, b in SUMS], (STOP,), 0)
    algorithm = Grpo(networks, config, PolicyInputs(prompts, score, no_autocast, context.ranks))
    algorithm.train(context, local_engine(networks.policy, prompts))
    return decoder
