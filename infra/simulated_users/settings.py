"""What the demonstration does for each recipe, unless the command line says otherwise."""

from dataclasses import dataclass
from pathlib import Path

from infra.simulated_users.crowd import Habits
from infra.simulated_users.rating import Temper
from training.errors import ConfigError


@dataclass(frozen=True)
class Plan:
    """What one recipe's demonstration does.

    `questions`: how many different ones are asked, so that answers to the same one can be compared.
        During training each of the
    `concurrency` rests for `pause_seconds` after a visit, until a canary wants thumbs, for
    `canary_seconds` at most. `samples`: answers of each version to a held-out question,
    `judged_at_once` asked at a time: fewer than people ask, since one that fails leaves a question
    out. `goal`: the win rate that is claimed; None claims none.
    """

    model: str
    thumbs: int
    questions: int
    people: int
    seconds: float
    concurrency: int
    habits: Habits
    temper: Temper
    pause_seconds: float
    canary_seconds: float
    samples: int
    judged_at_once: int
    goal: float | None


PLANS = {
    "nano": Plan(
        model="nano",
        thumbs=1000,
        questions=100,
        people=40,
        seconds=240,
        concurrency=16,
        habits=Habits(),
        temper=Temper(),
        pause_seconds=16.0,
        canary_seconds=240.0,
        samples=2,
        judged_at_once=4,
        goal=0.65,
    ),
    # A slip makes pairs of what all liked: with one in ten, two of five pairs on a few hundred
    # thumbs are a coin's toss.
    "small": Plan(
        model="small",
        thumbs=700,
        questions=100,
        people=24,
        seconds=1800,
        concurrency=4,
        habits=Habits(asks_again=0.7, goes_on=0.02),
        temper=Temper(noise=0.03, corrects_if_displeased=0.25),
        pause_seconds=120.0,
        canary_seconds=1200.0,
        samples=1,
        judged_at_once=2,
        goal=None,
    ),
}


@dataclass(frozen=True)
class Control:
    """What is done wrong on purpose, to see that it is noticed."""

    shuffle_thumbs: bool = False
    worse: bool = False

    def __post_init__(self) -> None:
        if self.shuffle_thumbs and self.worse:
            raise ConfigError(
                "--shuffle-thumbs and --worse are two controls: run them one after the other",
                field="--worse",
                reason="CONFLICT",
            )


@dataclass(frozen=True)
class Settings:
    """One demonstration. `fresh`: what an earlier one left in the state folder is removed, unless
    its system still runs.
    """

    recipe: str
    plan: Plan
    state: Path
    http_port: int
    grpc_port: int
    seed: int
    keep: bool
    fresh: bool
    control: Control
