"""Drill: an arena whose votes are poisoned, with and without the defence.

Usage: python -m benchmarks.poisoning [--seeds 5] [--models 12] [--style adaptive]

100,000 votes over models of known strength, of which 5,000 come from 200 hostile accounts that
raise a model in the middle of the ranking. Honest accounts have long-tailed activity, noise and
tastes of their own; some vote at random, some are fans of a model, and one day brings as many of
them as a usual month. Three styles of attack:

- naive: vote on the target's battles only, always for the target;
- distributed: the target wins, all other votes are random; accounts are created within six hours;
- adaptive: vote as honest accounts do, with their noise, except that the target wins; accounts are
  as old as honest ones and vote at the same times.

The shift of the target's rating is in half widths of its 95 % interval from the honest votes, and
compares the votes with those without the hostile ones, in both cases with, or without, defence.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from human_evaluation.battles import Battles
from human_evaluation.bradley_terry import Ratings, fit
from human_evaluation.defence import Defence, defend
from human_evaluation.detection_config import DetectionConfig
from human_evaluation.trust import DAY_SECONDS, TrustConfig
from human_evaluation.votes import NONE, Accounts, Array, Index, Votes, share_of

Mask = npt.NDArray[np.bool_]

STYLES = ("naive", "distributed", "adaptive")
DAYS = 90
NOW = DAYS * DAY_SECONDS
HONEST_VOTES, HOSTILE_VOTES = 95_000, 5_000
HONEST, HOSTILE = 4_000, 200
TIES = 0.2
RANDOM_ACCOUNTS = 0.05
FANS = 0.05  # of the honest accounts, over all models
QUARTER_DAY = 0.25


@dataclass(frozen=True)
class Arena:
    """Votes with the truth about their accounts.

    Attributes:
        hostile: accounts of the attacker, [A].
        fan: honest fans of a model, [A].
        target: index of the model that the attacker raises.
    """

    votes: Votes
    accounts: Accounts
    hostile: Mask
    fan: Mask
    target: int
    models: int

    @property
    def honest_only(self) -> Arena:
        """The same arena without the attack."""
        kept = ~self.hostile[self.votes.account]
        columns = ("account", "first", "second", "score", "time", "item")
        votes = Votes(*(getattr(self.votes, name)[kept] for name in columns))
        number = int((~self.hostile).sum())
        accounts = Accounts(self.accounts.created[:number], self.accounts.cluster[:number])
        return Arena(
            votes,
            accounts,
            np.zeros(number, dtype=bool),
            self.fan[:number],
            self.target,
            self.models,
        )


@dataclass(frozen=True)
class Outcome:
    """Figures of one attack.

    Attributes:
        undefended: shift of the target without defence, in half widths of its interval.
        defended: the same with defence.
        places: places that the target gains without, and with defence.
        found: hostile accounts among those in quarantine, and all of them.
        fans: honest fans in quarantine.
        suspected: hostile accounts among the HOSTILE most probable ones of the largest campaign.
    """

    undefended: float
    defended: float
    places: tuple[int, int]
    found: tuple[int, int]
    fans: int
    suspected: int
    campaigns: tuple[str, ...]
    seconds: float


def make_arena(
    rng: np.random.Generator, style: str, models: int, fans: float = FANS, tips: float = 1.0
) -> Arena:
    """Return honest votes, followed by those of an attack.

    Args:
        fans: share of honest accounts that are fans of a model.
        tips: share of the target's battles that hostile accounts decide for it.
    """
    strengths = np.sort(rng.normal(0, 0.5, models))[::-1]
    activity = rng.lognormal(0, 1.4, HONEST)
    account = rng.choice(HONEST, HONEST_VOTES, p=activity / activity.sum())
    created = rng.uniform(-365, 85, HONEST)
    launch = rng.random(HONEST) < 0.06
    created[launch] = 40 + rng.random(int(launch.sum()))
    follows = np.where(rng.random(HONEST) < RANDOM_ACCOUNTS, 0, rng.lognormal(0, 0.3, HONEST))
    taste = rng.normal(0, 0.3, (HONEST, models))
    is_fan = rng.random(HONEST) < fans
    popularity = rng.permutation(1 / np.arange(1, models + 1))
    favourite = rng.choice(models, HONEST, p=popularity / popularity.sum())
    taste[is_fan, favourite[is_fan]] += rng.uniform(1, 2.2, int(is_fan.sum()))
    first, second = draw_battles(rng, HONEST_VOTES, models)
    odds = follows[account] * (strengths[first] - strengths[second])
    odds += taste[account, first] - taste[account, second]
    score = draw_scores(rng, share_of(odds))
    target = models // 2
    theirs = _attack(rng, style, strengths, target, tips)
    votes = Votes(
        account=np.concatenate([account, theirs.votes.account + HONEST]),
        first=np.concatenate([first, theirs.votes.first]),
        second=np.concatenate([second, theirs.votes.second]),
        score=np.concatenate([score, theirs.votes.score]),
        time=np.concatenate([_times(rng, created[account]), theirs.votes.time]),
        item=np.full(HONEST_VOTES + HOSTILE_VOTES, NONE),
    )
    all_created = np.concatenate([created * DAY_SECONDS, theirs.accounts.created])
    accounts = Accounts(all_created, np.full(HONEST + HOSTILE, NONE))
    hostile = np.arange(HONEST + HOSTILE) >= HONEST
    fan = np.concatenate([is_fan, np.zeros(HOSTILE, dtype=bool)])
    return Arena(votes, accounts, hostile, fan, target, models)


def _attack(
    rng: np.random.Generator, style: str, strengths: Array, target: int, tips: float
) -> Arena:
    """Return the votes of the attacker alone."""
    models = len(strengths)
    activity = rng.gamma(2, 1, HOSTILE)
    account = rng.choice(HOSTILE, HOSTILE_VOTES, p=activity / activity.sum())
    first, second = draw_battles(rng, HOSTILE_VOTES, models)
    if style == "naive":
        created = rng.uniform(50, 85, HOSTILE)
        other = (target + rng.integers(1, models, HOSTILE_VOTES)) % models
        swap = rng.random(HOSTILE_VOTES) < 0.5
        first, second = np.where(swap, other, target), np.where(swap, target, other)
        score = np.full(HOSTILE_VOTES, 0.5)
    elif style == "distributed":
        created = 80 + QUARTER_DAY * rng.random(HOSTILE)
        score = (rng.random(HOSTILE_VOTES) < 0.5).astype(float)
    else:
        created = rng.uniform(-365, 60, HOSTILE)
        score = draw_scores(rng, share_of(strengths[first] - strengths[second]))
    tipped = rng.random(HOSTILE_VOTES) < tips
    score = np.where(tipped & (first == target), 1.0, score)
    score = np.where(tipped & (second == target), 0.0, score)
    none = np.full(HOSTILE_VOTES, NONE)
    votes = Votes(account, first, second, score, _times(rng, created[account]), none)
    everyone = np.ones(HOSTILE, dtype=bool)
    accounts = Accounts(created * DAY_SECONDS, np.full(HOSTILE, NONE))
    return Arena(votes, accounts, everyone, ~everyone, target, models)


def draw_battles(rng: np.random.Generator, count: int, models: int) -> tuple[Index, Index]:
    """Return pairs of different models, all with the same chance."""
    first = rng.integers(0, models, count)
    return first, (first + rng.integers(1, models, count)) % models


def draw_scores(rng: np.random.Generator, chance: Array) -> Array:
    """Return votes with ties, whose mean is closer to 0.5 than the chance."""
    score = (rng.random(len(chance)) < chance).astype(float)
    return np.where(rng.random(len(chance)) < TIES, 0.5, score)


def _times(rng: np.random.Generator, created: Array) -> Array:
    start = np.maximum(created, 0)
    times: Array = (start + rng.random(len(start)) * (DAYS - start)) * DAY_SECONDS
    return times


def rate(arena: Arena, weight: Array, *, with_errors: bool = False) -> Ratings:
    """Return the ratings in log-odds; errors treat the votes of an account as dependent."""
    battles = Battles(
        models=tuple(f"model-{number}" for number in range(arena.models)),
        first=arena.votes.first,
        second=arena.votes.second,
        score=arena.votes.score,
        weight=weight,
        voter=arena.votes.account,
    )
    return fit(battles, scale=1.0, centre=0.0, cluster_voters=with_errors)


def defended(arena: Arena, config: DetectionConfig | None = None) -> Defence:
    """Return the defence with the default settings."""

    def refit(weight: Array) -> Array:
        return rate(arena, weight).rating

    return defend(
        arena.votes, arena.accounts, NOW, refit, TrustConfig(), config or DetectionConfig()
    )


def attack(arena: Arena, honest: Defence, plain: Ratings) -> Outcome:
    """Compare an attack with the same arena without it.

    Args:
        honest: the defence of the honest votes alone.
        plain: ratings of the honest votes alone, without defence, with errors.
    """
    started = time.perf_counter()
    result = defended(arena)
    seconds = time.perf_counter() - started
    ratings = rate(arena, np.ones(len(arena.votes))).rating
    target = arena.target
    half = (plain.high - plain.low)[target] / 2
    quarantined = result.quarantined(len(arena.accounts))
    probable = np.zeros(len(arena.accounts))
    for campaign in result.campaigns:
        probable = np.maximum(probable, campaign.hostile)
    most = np.argsort(-np.maximum(probable, quarantined), kind="stable")[:HOSTILE]
    return Outcome(
        undefended=(ratings[target] - plain.rating[target]) / half,
        defended=(result.ratings[target] - honest.ratings[target]) / half,
        places=(
            place(plain.rating, target) - place(ratings, target),
            place(honest.ratings, target) - place(result.ratings, target),
        ),
        found=(int((quarantined & arena.hostile).sum()), int(quarantined.sum())),
        fans=int((quarantined & arena.fan).sum()),
        suspected=int(arena.hostile[most].sum()),
        campaigns=tuple(
            f"{one.group or 'all accounts'}: {one.share:.1%} tip, fans {one.fans:.1%}, "
            f"{'for' if one.favours else 'against'} model-{one.subject}, log e {one.log_e:.0f}"
            for one in result.campaigns
        ),
        seconds=seconds,
    )


def place(ratings: Array, model: int) -> int:
    """Return the place of a model in the ranking, the first is 1."""
    return 1 + int((ratings > ratings[model]).sum())


def summary(style: str, outcomes: list[Outcome]) -> str:
    """Return the figures of a style in a single line, over all seeds."""
    found = np.array([outcome.found for outcome in outcomes])
    precision = found[:, 0].sum() / max(1, found[:, 1].sum())

    def shifts(of: Callable[[Outcome], float]) -> str:
        values = np.array([of(outcome) for outcome in outcomes])
        return f"{values.mean():+.2f} (largest {np.abs(values).max():.2f})"

    return (
        f"{style}: shift {shifts(lambda o: o.undefended)} half widths without, "
        f"{shifts(lambda o: o.defended)} with defence; "
        f"places {np.mean([o.places[0] for o in outcomes]):+.1f} and "
        f"{np.mean([o.places[1] for o in outcomes]):+.1f}; "
        f"precision {precision:.3f}, recall {found[:, 0].mean() / HOSTILE:.3f}, "
        f"honest in quarantine {(found[:, 1] - found[:, 0]).mean():.1f} "
        f"({np.mean([o.fans for o in outcomes]):.1f} fans); of the {HOSTILE} most probable "
        f"{np.mean([o.suspected for o in outcomes]) / HOSTILE:.0%} are hostile; "
        f"{np.median([o.seconds for o in outcomes]):.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--fans", type=float, default=FANS)
    parser.add_argument("--tips", type=float, default=1.0)
    parser.add_argument("--style", choices=STYLES, action="append")
    options = parser.parse_args()
    styles = options.style or STYLES
    outcomes: dict[str, list[Outcome]] = {style: [] for style in styles}
    quiet, moved, campaigns = [], [], []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for style in styles:
            # The honest part of an arena depends on the seed only.
            rng = np.random.default_rng(seed)
            arena = make_arena(rng, style, options.models, options.fans, options.tips)
            if style == styles[0]:
                alone = arena.honest_only
                honest = defended(alone)
                plain = rate(alone, np.ones(len(alone.votes)), with_errors=True)
                quiet.append(int(honest.quarantined(HONEST).sum()))
                campaigns.append(len(honest.campaigns))
                own = (honest.ratings - plain.rating)[arena.target]
                moved.append(2 * own / (plain.high - plain.low)[arena.target])
            outcome = attack(arena, honest, plain)
            outcomes[style].append(outcome)
            print(f"  seed {seed}, {style}: {'; '.join(outcome.campaigns)}", flush=True)
    print(
        f"without attack: {np.sum(quiet)} honest accounts in quarantine and {np.sum(campaigns)} "
        f"campaigns in {options.seeds} arenas; the defence moves the target by "
        f"{np.abs(moved).max():.2f} half widths at most"
    )
    for style in styles:
        print(summary(style, outcomes[style]))


if __name__ == "__main__":
    main()
