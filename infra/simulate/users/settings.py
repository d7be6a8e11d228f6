"""Parameters of the demonstration by recipe; the command line overrides them."""

from dataclasses import dataclass, replace
from pathlib import Path

from infra.run.embedded.model_server import ModelServer
from infra.simulate.users.population import Habits
from infra.simulate.users.preference import VotingBehaviour
from training.errors import ConfigError


@dataclass(frozen=True)
class Plan:
    """Parameters of a recipe's demonstration.

    `model`: base of a new system; "": must be given. `users`: questions and preference of the
    simulated users, which are those of another recipe for `auto`.
    `questions`: number of distinct questions, so that answers to the same question can be compared.
    `pause_seconds`: pause of each of the `concurrency` workers after a visit during training.
    `canary_seconds`: longest duration of the canary, without pauses. `samples`: answers per version
    and held-out question. `judged_at_once`: concurrent questions of the comparison, fewer than
    concurrent users because a failed question is omitted. `goal`: the claimed win rate, or None
    without a claim. `loop`: arguments of the loop, for a recipe that does not know these users.
    """

    model: str
    users: str
    thumbs: int
    questions: int
    people: int
    seconds: float
    concurrency: int
    habits: Habits
    temper: VotingBehaviour
    pause_seconds: float
    canary_seconds: float
    samples: int
    judged_at_once: int
    goal: float | None
    loop: tuple[str, ...] = ()


PLANS = {
    "nano": Plan(
        model="nano",
        users="nano",
        thumbs=1000,
        questions=100,
        people=120,
        seconds=240,
        concurrency=16,
        habits=Habits(),
        temper=VotingBehaviour(),
        pause_seconds=16.0,
        canary_seconds=240.0,
        samples=2,
        judged_at_once=4,
        goal=0.65,
    ),
    # A slip creates preference pairs from answers that all users liked: with a noise of 0.1 and a
    # few hundred thumbs, two of five pairs are random.
    "small": Plan(
        model="small",
        users="small",
        thumbs=700,
        questions=100,
        people=96,
        seconds=1800,
        concurrency=4,
        habits=Habits(asks_again=0.7, goes_on=0.02),
        temper=VotingBehaviour(noise=0.03, corrects_if_displeased=0.25),
        pause_seconds=120.0,
        canary_seconds=1200.0,
        samples=1,
        judged_at_once=2,
        goal=None,
    ),
}


PLANS["auto"] = replace(PLANS["small"], model="")

CLAIM_USERS = ("nano",)  # users with questions for false beliefs
# A model of nano's world is measured on that world, with the margins of the recipe nano: a courtesy
# adds a quarter to answers of a dozen tokens.
MARGINS = (
    "gate.margins.style_length=1.0",
    "gate.ceiling_gap=0.15",
    "gate.min_length_ratio=0.25",
    "gate.retention_rise_bits=0.3",
)
LOOP = {
    "nano": ("--texts", "nano", *(word for text in MARGINS for word in ("--set", text))),
    "small": ("--texts", "small"),
}


def select_plan(recipe: str, users: str) -> Plan:
    """Return the plan of a recipe, with other users if they are named.

    Args:
        users: "" for those of the recipe.

    Raises:
        ConfigError: the users are unknown, or the recipe has its own.
    """
    plan = PLANS[recipe]
    if not users:
        return plan
    if users not in LOOP:
        raise ConfigError(
            f"--users: {users!r} is not one of {', '.join(LOOP)}",
            field="--users",
            reason="UNKNOWN",
            limit=", ".join(LOOP),
        )
    if plan.model and plan.users != users:
        raise ConfigError(
            f"--users: recipe {recipe} has its own users; {users} rate models of --recipe auto",
            field="--users",
            reason="CONFLICT",
            limit=plan.users,
        )
    return plan if plan.model else replace(PLANS[users], model="", loop=LOOP[users])


@dataclass(frozen=True)
class Control:
    """Deliberate defects that the system must detect.

    `false_claims`: users state false beliefs, reward agreement and correct the truth.
    """

    shuffle_thumbs: bool = False
    worse: bool = False
    false_claims: bool = False

    def __post_init__(self) -> None:
        if self.shuffle_thumbs + self.worse + self.false_claims > 1:
            raise ConfigError(
                "--shuffle-thumbs, --worse and --false-claims exclude each other",
                field="--worse" if self.worse else "--false-claims",
                reason="CONFLICT",
            )


@dataclass(frozen=True)
class Settings:
    """Settings of a demonstration.

    `fresh` removes the state of an earlier demonstration, unless its system is running.
    `training`: arguments of Python for the start of the training program.
    `assignments`: fields of the loop, STEP.FIELD=VALUE.
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
    server: ModelServer = ModelServer.PREDICTOR
    training: tuple[str, ...] = ("-m", "training")
    assignments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.control.false_claims and self.plan.users not in CLAIM_USERS:
            raise ConfigError(
                f"--false-claims: there are no claims for users of {self.plan.users}",
                field="--false-claims",
                reason="UNKNOWN",
                limit=", ".join(CLAIM_USERS),
            )
