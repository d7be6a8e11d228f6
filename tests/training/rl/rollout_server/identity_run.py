"""PPO with a learning rate that changes no weight, run in each worker by test_identity."""

import json
import math
from contextlib import suppress
from pathlib import Path

from tests.training.rl.rollout_server.nano_policy import NANO, QUESTIONS
from tests.training.toys import KillAfter, Killed, ProgressList
from training.optim.optimizers import OptimizerConfig
from training.parallelism.layout import Parallelism
from training.runtime.context import Lineage, Machine, RunContext
from training.runtime.ranks import all_different
from training.runtime.training_state import DirectoryCheckpoints
from training.serving.rollout_server import RolloutServer, ServedType, ServerEngine
from training.stages import ppo
from training.stages.ppo import PpoConfig

UPDATES, KILLED_AFTER = 3, 2
# The smallest number above 0: in float32 each step is 0.
NO_RATE = OptimizerConfig(learning_rate=math.ulp(0.0), schedule="constant", warmup_fraction=0.0)


def train(directory: Path, rank: int, world: int, name: str, killed: str = "") -> None:
    """Train with rollouts of the predictor in float32, one response at once."""
    into, ranks = directory / name, all_different(rank, world)
    into.mkdir(exist_ok=True)
    rows = [{"messages": [{"role": "user", "content": question}]} for question in QUESTIONS]
    prompts = into / f"prompts-{rank}.jsonl"
    prompts.write_text("\n".join(map(json.dumps, rows)))
    config = PpoConfig(
        NANO,
        prompts,
        into / name,
        Lineage(name),
        reward_model_directory=None,
        rollout_server=RolloutServer(ServerEngine.PREDICTOR, ServedType.FLOAT32, concurrency=1),
        updates=UPDATES,
        prompts_per_update=4,
        minibatch_rows=4,
        max_prompt_tokens=64,
        max_response_tokens=16,
        policy_optimizer=NO_RATE,
        parallelism=Parallelism(shard=world),
        checkpoint_every_updates=1,
        machine=Machine(threads=1),
    )
    run = into / "run"
    checkpoints = (
        KillAfter(run, KILLED_AFTER, ranks) if killed else DirectoryCheckpoints(run, ranks)
    )
    progress = ProgressList()
    with suppress(Killed):
        ppo.run(
            config,
            RunContext(checkpoints, progress, ranks),
            verifier=lambda answers: [float(len(answer.text) % 7) for answer in answers],
        )
    assert max(step.metrics["sampler_mismatch"] for step in progress.steps) < 1e-4
