"""Answers of candidate and incumbent to the same prompts with the same random numbers.

Answers are scored by a reward model. Models are loaded one after the other, so a comparison needs
the memory of one model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from training.data.chat import Chat, Message, load_chat
from training.data.context import fit_context
from training.data.seeds import seed_of
from training.data.tensors import pad
from training.decoding.config import Rules
from training.decoding.rows import Rows, stop_at
from training.decoding.sampling import sample
from training.evaluation.config import Sampling
from training.losses.log_probs import next_token_log_probs
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder
from training.model.placement import Place, Placement
from training.model.reward import RewardModel

Prompt = Sequence[Message]
WIDE = Placement().place
SCORE_ROWS, SCORE_TOKENS = 32, 32 * 320  # of a batch; 320 tokens are those of the recipe small


@dataclass(frozen=True)
class SampledAnswer:
    """Answer to a prompt.

    Attributes:
        ended: the answer ended by itself, not by the token limit.
    """

    prompt: int
    text: str
    tokens: int
    ended: bool


class ChatModel:
    """Model of a directory, with its tokenizer and chat template."""

    def __init__(self, directory: Path, place: Place = WIDE) -> None:
        self.chat: Chat = load_chat(directory)
        decoder = load_decoder(directory)
        place(decoder)
        self.backbone = Backbone(decoder)

    def answer(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[SampledAnswer]:
        """Sample samples_per_prompt answers to each prompt, in order of the prompts.

        Long prompts are shortened by `fitted_ids`.
        """
        ids = [fitted_ids(self.chat, prompt, sampling.max_prompt_tokens) for prompt in prompts]
        rules = Rules(temperature=sampling.temperature, top_p=sampling.top_p)
        answers: list[SampledAnswer] = []
        for start in range(0, len(ids), sampling.batch_prompts):
            batch = ids[start : start + sampling.batch_prompts]
            rows = Rows(
                self.backbone,
                batch,
                sampling.max_response_tokens,
                copies=sampling.samples_per_prompt,
            )
            seeds = [
                seed_of(sampling.seed, "evaluation", start + place) for place in range(len(batch))
            ]
            ends = stop_at(self.chat.stop_ids)
            for row, continued in enumerate(
                sample(rows, rules, ends, sampling.max_response_tokens, seeds)
            ):
                prompt = start + row // sampling.samples_per_prompt
                text = self.chat.decode(continued.ids).strip()
                answers.append(SampledAnswer(prompt, text, len(continued.ids), continued.ended))
        return answers

    def answer_greedily(
        self, conversations: Sequence[Sequence[Mapping[str, str]]], max_tokens: int
    ) -> list[SampledAnswer]:
        """Return the greedy answer to each conversation of {"role", "content"}, in order.

        Prompts that leave no room for `max_tokens` in the window are shortened by `fitted_ids`.
        """
        window = self.backbone.decoder.config.max_positions
        sampling = Sampling(
            samples_per_prompt=1,
            max_prompt_tokens=max(1, window - max_tokens),
            max_response_tokens=max_tokens,
            temperature=0.0,
        )
        prompts = [[Message(**message) for message in asked] for asked in conversations]
        return self.answer(prompts, sampling)

    @torch.no_grad()
    def bits(self, texts: Sequence[str], max_tokens: int) -> list[float]:
        """Return the bits per byte of each text after its first token.

        The figure is comparable between tokenizers.
        """
        found = []
        for text in texts:
            ids = self.chat.response_ids(text)[:max_tokens]
            ids_BT = torch.tensor([ids])
            log_probs_N = next_token_log_probs(
                self.backbone.decoder,
                self.backbone.hidden(ids_BT),
                ids_BT,
                torch.ones_like(ids_BT, dtype=torch.bool),
            )
            size = len(self.chat.decode(ids).encode())
            found.append(-float(log_probs_N.sum()) / math.log(2) / size)
        return found


def fitted_ids(chat: Chat, prompt: Prompt, most_tokens: int) -> list[int]:
    """Return the ids of a context without the oldest messages that do not fit.

    A question that does not fit alone loses its oldest tokens, because a measurement needs an
    answer to every prompt.
    """
    if fitted := fit_context(chat, prompt, most_tokens):
        return list(fitted.ids)
    return chat.prompt_ids(prompt)[-most_tokens:]


def score_rows(max_tokens: int) -> int:
    """Return the rows of up to `max_tokens` that a reward model scores at once."""
    return max(1, min(SCORE_ROWS, SCORE_TOKENS // max_tokens))


@torch.no_grad()
def score(
    reward: RewardModel,
    chat: Chat,
    rows: Sequence[tuple[Prompt, str]],
    max_tokens: int,
) -> list[float]:
    """Return the score of each (prompt, answer) by a reward model that was placed.

    Long prompts are shortened by `fitted_ids`; longer answers lose their oldest tokens.
    """
    batch = score_rows(max_tokens)
    ids = []
    for prompt, text in rows:
        response = chat.response_ids(text)
        fitted = fitted_ids(chat, prompt, max(1, max_tokens - len(response)))
        ids.append([*fitted, *response][-max_tokens:])
    scores: list[float] = []
    for start in range(0, len(ids), batch):
        ids_BT, mask_BT = pad(ids[start : start + batch], side="left")
        scores += reward.score(ids_BT, mask_BT).tolist()
    return scores
