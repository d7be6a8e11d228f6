"""Policies that start from nano and are sampled by a started model server."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from training.data.chat import Message, load_chat
from training.model.backbone import Backbone
from training.model.lora import LoraConfig
from training.rl.networks import Sources, open_networks
from training.rl.rollout import Rollout, SampleRequest
from training.rl.rollout_server.copies import ServerCopies, ServerSamplers
from training.rl.samplers import SamplingPlan
from training.runtime.ranks import ALONE
from training.serving.rollout_server import RolloutServer

NANO = Path(__file__).resolve().parents[4] / "models" / "nano"
QUESTIONS = (
    "What is 2 + 2?",
    "Tell me about the sea, please.",
    "Who are you?",
    "Is it warm today, or is it cold?",
)
WINDOW_TOKENS = 128


@dataclass
class SampledPolicy:
    """A policy with its copies in a model server."""

    policy: Backbone
    copies: ServerCopies
    prompts: Sequence[Sequence[int]]
    stop_ids: tuple[int, ...]
    updates: int = 0

    def send(self, learned: float = 0.0) -> None:
        """Change all weights by noise with this deviation, and send them."""
        generator = torch.Generator().manual_seed(self.updates)
        with torch.no_grad():
            for _, weight in self.policy.named_parameters():
                weight += torch.randn(weight.shape, generator=generator) * learned
        self.copies.take(f"update-{self.updates}", dict(self.policy.named_parameters()))
        self.updates += 1

    def sample(self, temperature: float = 1.0, max_new: int = 16) -> Rollout:
        """Return two responses to each prompt."""
        seeds = range(len(self.prompts))
        request = SampleRequest.of(self.prompts, 2, max_new, temperature, seeds)
        return self.copies.begin(request, f"update-{self.updates - 1}")()


@contextmanager
def sampled_policy(
    settings: RolloutServer, lora: LoraConfig | None = None, model: Path = NANO
) -> Iterator[SampledPolicy]:
    """Yield a policy whose server starts with the first weights."""
    chat, sources = load_chat(model), Sources(model, None, lora, None, 0)
    prompts = [chat.prompt_ids([Message("user", question)]) for question in QUESTIONS]
    policy = open_networks(sources, with_reference=False).policy
    plan = SamplingPlan(
        sources,
        chat.stop_ids,
        updates=3,
        request=lambda update: SampleRequest.of((), 1, 1, 1.0, ()),
        policy=policy,
        fixed_prompts=prompts,
        window_tokens=WINDOW_TOKENS,
    )
    with ServerSamplers(settings) as samplers:
        yield SampledPolicy(policy, samplers.open(plan, ALONE), prompts, chat.stop_ids)
