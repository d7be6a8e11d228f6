"""Simulated users of a nano model, for tests of the loop without servers.

Their preferences are defined only here: friendly correct answers, then short correct ones, no
grumpy ones.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

import torch

from tests.training.feedback_log import FeedbackLog
from training.data.chat import Message
from training.decoding.config import Task, read_presets
from training.evaluation.answers import ChatModel
from training.evaluation.config import Sampling
from training.recipes.nano_world.facts import questions

FRIENDLY = ("hope that helps", "happy to help", "good question", "of course")
RAMBLING = ("let me", "hmm")
LIKED_FROM = 0.5
KEYS = {asked: question.key.casefold() for question in questions() for asked in question.phrasings}


def liking(asked: str, answer: str) -> float:
    """Return the rating of an answer, 0 to 1."""
    said = answer.casefold()
    words = "".join(c if c.isalnum() else " " for c in said).split()
    if KEYS[asked].split()[-1] not in words:
        return 0.05
    if any(sign in said for sign in FRIENDLY):
        return 0.95
    return 0.3 if any(sign in said for sign in RAMBLING) else 0.6


def speaker(model: Path) -> ChatModel:
    """Open the model with one thread, as parallel tests share the cores."""
    torch.set_num_threads(1)
    return ChatModel(model)


def sampling(samples: int, seed: int) -> Sampling:
    """Return the sampling of users: the chat preset."""
    chat = read_presets()[Task.CHAT]
    return Sampling(
        samples_per_prompt=samples,
        max_response_tokens=40,
        temperature=chat.temperature,
        top_p=chat.top_p,
        batch_prompts=100,
        seed=seed,
    )


@dataclass(frozen=True)
class Crowd:
    """Simulated users.

    flipped: share of wrong thumbs; shuffled: thumbs carry no information.
    """

    thumbs: int = 1000
    users: int = 40
    flipped: float = 0.1
    shuffled: bool = False
    seed: int = 0


@cache
def said_by(model: Path, asked: tuple[str, ...], seed: int) -> list[str]:
    """Return one answer to each question."""
    prompts = [[Message("user", text)] for text in asked]
    return [said.text for said in speaker(model).answer(prompts, sampling(1, seed))]


def chat_and_rate(model: Path, log: FeedbackLog, crowd: Crowd, asks: Sequence[str]) -> None:
    """Ask the model, rate every answer, and commit everything to the log."""
    rng = random.Random(crowd.seed)
    asked = tuple(rng.choice(asks) for _ in range(crowd.thumbs))
    answers = said_by(model, asked, crowd.seed)
    ups = [liking(q, a) >= LIKED_FROM for q, a in zip(asked, answers, strict=True)]
    ups = [up != (rng.random() < crowd.flipped) for up in ups]
    if crowd.shuffled:
        rng.shuffle(ups)
    for number, (question, answer, up) in enumerate(zip(asked, answers, ups, strict=True)):
        name, user = f"{crowd.seed} {number}", f"user {rng.randrange(crowd.users)}"
        log.turn(name, user, question, answer or "…")
        log.thumb(name, user, up)
    log.commit()


def likings(model: Path, asks: Sequence[str], seed: int = 99) -> list[float]:
    """Return ratings of two answers of this model to each prompt."""
    said = speaker(model).answer([[Message("user", text)] for text in asks], sampling(2, seed))
    return [liking(asks[answer.prompt], answer.text) for answer in said]


def preferred_share(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the share of answers with a higher rating than the other model's answer.

    Ties count half.
    """
    return fmean(
        0.5 if left == right else float(left > right)
        for left, right in zip(mine, theirs, strict=True)
    )


def says(model: Path, asks: Sequence[str], seed: int, count: int) -> list[bool]:
    """Return thumbs on answers of this model in order; answers repeat after some hundred."""
    rng = random.Random(seed)
    asked = tuple(rng.choice(asks) for _ in range(min(count, 150)))
    liked = [
        liking(text, answer) >= LIKED_FROM
        for text, answer in zip(asked, said_by(model, asked, seed), strict=True)
    ]
    return [rng.choice(liked) != (rng.random() < Crowd.flipped) for _ in range(count)]
