"""Time of one PPO update by part, with a rollout server compared with the policy's own sampler.

`python benchmarks/rollout_server.py [--engine vllm --python ENVIRONMENT/bin/python]`. Both sides
train the same model on the same prompts and alternate update by update, so other processes slow
both. Wall time, because the server is another process. The first update, in which the server
starts, is not counted.

Parts: sync (weights on their way to the server, and their comparison), rollout, scoring (log-probs
of policy and reference, values, scores), learning. The score is a function of the text's length, so
no time of a reward model is included.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from training.data.chat import load_chat
from training.model.config import LoraConfig
from training.rl.networks import open_critic, open_networks
from training.rl.scores import Answer
from training.runtime.context import Lineage, Machine, RunContext
from training.runtime.machine import configure_device
from training.runtime.training_state import DirectoryCheckpoints
from training.serving.rollout_server import RolloutServer, ServedType, ServerEngine
from training.stages.policy_config import PpoConfig
from training.stages.policy_inputs import network_sources, open_policy_inputs, read_data
from training.stages.policy_loop import rollout_engines, sample_rollout
from training.stages.ppo import Ppo, PpoNetworks

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("sync", "rollout", "scoring", "learning")
QUESTIONS = (
    "What is 2 + 2?",
    "Tell me about the sea, please.",
    "Who are you?",
    "Is it warm today, or is it cold?",
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "nano")
    parser.add_argument("--engine", type=ServerEngine, default=ServerEngine.PREDICTOR)
    parser.add_argument("--dtype", type=ServedType, default=ServedType.FLOAT32)
    parser.add_argument("--python", type=Path, help="interpreter with vLLM")
    parser.add_argument("--lora", type=int, default=0, help="rank of the adapter; 0: all weights")
    parser.add_argument("--updates", type=int, default=6, help="after one to warm up")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1, help="of the trainer")
    parser.add_argument("--tokens", type=int, default=64, help="of a response, at most")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {options.model.name}")
    eager = ("--enforce-eager",) if options.engine is ServerEngine.VLLM else ()
    server = RolloutServer(options.engine, options.dtype, options.python, arguments=eager)
    with TemporaryDirectory() as folder, ExitStack() as stack:
        sides = {
            name: stack.enter_context(Side(options, Path(folder), name, used))
            for name, used in (("own", None), ("server", server))
        }
        for update in range(1 + options.updates):
            for side in sides.values():
                side.update(update)
        report(sides["own"].seconds[1:], sides["server"].seconds[1:], options)


class Side:
    """PPO with one sampler; `seconds` has the time of each part by update."""

    def __init__(
        self, options: argparse.Namespace, folder: Path, name: str, server: RolloutServer | None
    ) -> None:
        rows = [
            {"messages": [{"role": "user", "content": f"{question} ({n})"}]}
            for n in range(options.prompts)
            for question in QUESTIONS
        ]
        data = folder / f"{name}.jsonl"
        data.write_text("\n".join(map(json.dumps, rows)))
        self._config = PpoConfig(
            options.model,
            data,
            folder / name,
            Lineage(name),
            reward_model_directory=None,
            lora=LoraConfig(rank=options.lora) if options.lora else None,
            rollout_server=server,
            updates=1 + options.updates,
            prompts_per_update=options.prompts,
            minibatch_rows=options.prompts,
            max_prompt_tokens=64,
            max_response_tokens=options.tokens,
            machine=Machine(threads=options.threads),
        )
        self._folder, self._stack = folder / name, ExitStack()
        self.seconds: list[dict[str, float]] = []

    def __enter__(self) -> "Side":
        config, context = self._config, RunContext(DirectoryCheckpoints(self._folder), print)
        autocast = configure_device(config.machine)
        self._prompts = read_data(config, load_chat(config.model_directory))
        sources = network_sources(config, None)
        opened = open_networks(sources, with_reference=True)
        assert opened.reference is not None
        networks = PpoNetworks(opened.policy, opened.reference, open_critic(opened, sources))
        inputs = open_policy_inputs(config, self._prompts, None, scores, autocast, context.ranks)
        self._ppo, self._ranks = Ppo(networks, config, inputs), context.ranks
        engines = rollout_engines(networks.policy, sources, self._prompts, config, context)
        self._engines = self._stack.enter_context(engines)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def update(self, update: int) -> None:
        """Do one update; the server starts in the first."""
        times = [time.monotonic()]
        engine = self._engines(update)
        times.append(time.monotonic())
        rollout = sample_rollout(engine, self._prompts, update, self._config, self._ranks)
        times.append(time.monotonic())
        experience, _ = self._ppo.make_experience(rollout, 0.05)
        times.append(time.monotonic())
        self._ppo.learn(experience, update)
        times.append(time.monotonic())
        parts = zip(PARTS, times, times[1:], strict=False)
        self.seconds.append({part: end - begin for part, begin, end in parts})


def scores(answers: Sequence[Answer]) -> list[float]:
    """Score answers by the length of their text."""
    return [float(len(answer.text) % 7) for answer in answers]


def report(
    own: Sequence[dict[str, float]],
    server: Sequence[dict[str, float]],
    options: argparse.Namespace,
) -> None:
    """Print the median time of each part and the ratio of both sides."""
    print(f"{options.engine.value} {options.dtype.value}, {options.updates} updates of")
    print(f"{options.prompts} prompts with responses of at most {options.tokens} tokens\n")
    print(f"{'part':10} {'own, s':>8} {'server, s':>10} {'ratio':>7}")
    totals = [sum(sum(update.values()) for update in side) for side in (own, server)]
    for part in PARTS:
        mine, theirs = (
            statistics.median(update[part] for update in side) for side in (own, server)
        )
        ratio = f"{theirs / mine:.2f}" if mine > 1e-3 else "-"
        print(f"{part:10} {mine:8.2f} {theirs:10.2f} {ratio:>7}")
    print(f"{'update':10} {totals[0] / len(own):8.2f} {totals[1] / len(own):10.2f}", end=" ")
    print(f"{totals[1] / totals[0]:7.2f}")


if __name__ == "__main__":
    main()
