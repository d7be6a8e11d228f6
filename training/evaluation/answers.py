"""Candidate and incumbent answer the same prompts with the same random numbers; what they say, and how it reads to others.

Models are loaded one after the other, so that a comparison needs the memory of one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from training.data.chat import Chat, Message, load_chat
from training.data.order import seed_of
from training.data.tensors import pad
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder
from training.model.reward import RewardModel
from training.rl.rollout import CachedEngine

Prompt = Sequence[Message]


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn, as users would see them."""

    samples_per_prompt: int = 4
    max_prompt_tokens: int = 256
    max_response_tokens: int = 64
    temperature: float = 1.0
    batch_prompts: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Said:
    """One answer. `ended`: by itself, not by the limit."""

    prompt: int
    text: str
    tokens: int
    ended: bool


class Speaker:
    """One model directory, loaded."""

    def __init__(self, directory: Path) -> None:
        self.chat: Chat = load_chat(directory)
        self.backbone = Backbone(load_decoder(directory))

    def answer(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[Said]:
        """samples_per_prompt answers to each prompt, in prompt order. Longer prompts lose their oldest tokens."""
        ids = [self.chat.prompt_ids(prompt)[-sampling.max_prompt_tokens :] for prompt in prompts]
        engine = CachedEngine(self.backbone, self.chat.stop_ids)
        said: list[Said] = []
        for start in range(0, len(ids), sampling.batch_prompts):
            numbers = range(start, min(start + sampling.batch_prompts, len(ids)))
            rollout = engine.sample(
                [ids[number] for number in numbers],
                sampling.samples_per_prompt,
                sampling.max_response_tokens,
                sampling.temperature,
                [seed_of(sampling.seed, "evaluation", number) for number in numbers],
            )
            lengths = rollout.response_mask_BR.sum(1).tolist()
            for row, length in enumerate(lengths):
                words = self.chat.decode(rollout.response_ids_BR[row, :length].tolist())
                prompt = numbers[row // sampling.samples_per_prompt]
                said.append(Said(prompt, words.strip(), int(length), bool(rollout.ended_B[row])))
        return said

    @torch.no_grad()
    def bits(self, texts: Sequence[str], max_tokens: int) -> list[float]:
        """Bits per byte of each text, its first token given; comparable between tokenizers."""
        found = []
        for text in texts:
            ids = self.chat.response_ids(text)[:max_tokens]
            ids_BT = torch.tensor([ids])
            logits_BTV = self.backbone.decoder.logits(self.backbone.hidden(ids_BT))[:, :-1]
            chosen_BT = logits_BTV.float().log_softmax(-1).gather(-1, ids_BT[:, 1:, None])
            size = len(self.chat.decode(ids).encode())
            found.append(-float(chosen_BT.sum()) / math.log(2) / size)
        return found


@torch.no_grad()
def score(
    reward: RewardModel, chat: Chat, rows: Sequence[tuple[Prompt, str]], max_tokens: int, batch: int = 32
) -> list[float]:
    """The reward model's score of each (prompt, answer). What is too long loses its oldest tokens."""
    ids = [[*chat.prompt_ids(prompt), *chat.response_ids(text)][-max_tokens:] for prompt, text in rows]
    scores: list[float] = []
    for start in range(0, len(ids), batch):
        ids_BT, mask_BT = pad(ids[start : start + batch], side="left")
        scores += reward.score(ids_BT, mask_BT).tolist()
    return scores
