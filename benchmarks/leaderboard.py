"""Time and memory of the leaderboard: a million votes on 200 models, by step.

Usage: python -m benchmarks.leaderboard [--votes 1000000] [--models 200] [--peer-votes 50000]

Claims: a leaderboard of 1,000,000 votes needs at most 30 s of one core, without an [N, M] matrix,
also that of the service, where trust gives each vote a weight of its own, with style control.
The fit takes a small part of the time of scipy's L-BFGS on the same likelihood, whose design matrix
has one row for each vote, in the same run. Times are those of the processor, with one thread.
"""

from __future__ import annotations

import os

# One core, before numpy starts its threads.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import argparse
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import scipy.optimize  # type: ignore[import-untyped]
import scipy.sparse  # type: ignore[import-untyped]

from human_evaluation.battles import Array, Battles
from human_evaluation.bradley_terry import fit
from human_evaluation.fragility import fragility
from human_evaluation.ranks import neighbours, rank_ranges, win_matrix
from services.review.arena.leaderboard import rate
from services.review.arena.vote_columns import AccountColumns, VoteColumns

FEATURES = 4
NOW_US = 1_790_000_000_000_000
DAY_US = 86_400_000_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leaderboard", description=__doc__)
    parser.add_argument("--votes", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=200)
    parser.add_argument("--peer-votes", type=int, default=50_000)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    battles = simulated(arguments.votes, arguments.models, rng)
    print(f"{arguments.votes:,} votes, {arguments.models} models, {memory():.0f} MB with the votes")
    with step("fit"):
        ratings = fit(battles)
    with step("fit, errors by voter"):
        fit(battles, cluster_voters=True)
    with step("fit with style, errors by voter"):
        fit(battles, style=True, cluster_voters=True)
    with step("rank ranges, neighbours, win matrix"):
        rank_ranges(ratings)
        neighbours(ratings)
        win_matrix(battles)
    with step("fragility"):
        fragile = fragility(battles)
    if fragile is not None:
        print(
            f"  {fragile.removed:,} votes ({fragile.share:.3%}; {fragile.first_order:,} at first)"
        )
    with step("fragility with style"):
        fragility(battles, style=True)
    weighted = replace(battles, weight=rng.uniform(0.1, 1.0, len(battles)))
    with step("fit with a weight for each vote, errors by voter"):
        fit(weighted, cluster_voters=True)
    for models in (20, arguments.models):
        columns = service_votes(arguments.votes, models, rng)
        for style in (False, True):
            with step(f"leaderboard of the service, {models} models, style control: {style}"):
                rate(columns, {}, NOW_US, style=style)
    against_scipy(simulated(arguments.peer_votes, arguments.models, rng))


def service_votes(votes: int, models: int, rng: np.random.Generator) -> VoteColumns:
    """Return votes of 60 days by accounts of different age, activity and agreement."""
    accounts = votes // 25
    strengths = rng.normal(0, 0.3, models)
    first = rng.integers(0, models, votes)
    second = (first + rng.integers(1, models, votes)) % models
    length = rng.lognormal(5, 0.6, (votes, 2, 1))
    style = np.floor(np.concatenate((length, rng.poisson(1.0, (votes, 2, 3))), axis=2))
    difference = (style[:, 0] - style[:, 1]) / np.maximum(style.sum(axis=1), 1)
    logits = strengths[first] - strengths[second] + difference @ [0.5, 0.1, 0.1, 0.05]
    score = (rng.random(votes) < 1 / (1 + np.exp(-logits))).astype(float)
    score[rng.random(votes) < 0.2] = 0.5
    activity = rng.lognormal(0, 1.2, accounts)
    return VoteColumns(
        models=tuple(f"model {model}" for model in range(models)),
        first=first,
        second=second,
        score=score,
        account=rng.choice(accounts, votes, p=activity / activity.sum()),
        vote_us=NOW_US - np.sort(rng.integers(0, 60 * DAY_US, votes))[::-1],
        style=style,
        accounts=AccountColumns(
            principals=tuple(map(str, range(accounts))),
            create_us=NOW_US - rng.integers(0, 90 * DAY_US, accounts),
            weight=rng.beta(5, 1, accounts),
            quarantined=np.zeros(accounts, bool),
            released=np.zeros(accounts, bool),
        ),
        set_aside=0,
    )


def simulated(votes: int, models: int, rng: np.random.Generator) -> Battles:
    """Return votes on random pairs, 20 % ties, by voters of whom few are busy."""
    strengths = rng.normal(0, 0.5, models)
    first = rng.integers(0, models, votes)
    second = (first + rng.integers(1, models, votes)) % models
    features = rng.standard_normal((votes, FEATURES))
    logits = strengths[first] - strengths[second] + features @ [0.25, 0.05, 0.02, 0.0]
    score = (rng.random(votes) < 1 / (1 + np.exp(-logits))).astype(float)
    score[rng.random(votes) < 0.2] = 0.5
    return Battles(
        models=tuple(f"model {model}" for model in range(models)),
        first=first,
        second=second,
        score=score,
        voter=(votes / 5 * rng.random(votes) ** 3).astype(int),
        features=features,
    )


def against_scipy(battles: Battles) -> None:
    """Print the quotient of the times of scipy's optimizer and of `fit`, with style."""
    votes, models = len(battles), len(battles.models)
    rows = np.arange(votes)
    signs = scipy.sparse.csr_array(
        (
            np.repeat([1.0, -1.0], votes),
            (np.tile(rows, 2), np.concatenate((battles.first, battles.second))),
        ),
        shape=(votes, models),
    )
    features = (battles.features - battles.features.mean(axis=0)) / battles.features.std(axis=0)
    design = scipy.sparse.hstack((signs, scipy.sparse.csr_array(features))).tocsr()

    def loss(parameters: Array) -> tuple[float, Array]:
        logits = design @ parameters
        residual = battles.score - 1 / (1 + np.exp(-logits))
        value = (np.logaddexp(0, logits) - battles.score * logits).sum()
        return float(value / votes), -(design.T @ residual) / votes

    started = time.process_time()
    ratings = fit(battles, style=True)
    ours = time.process_time() - started
    started = time.process_time()
    options = {"maxiter": 10_000, "ftol": 0.0, "gtol": 1e-9}
    start = np.zeros(models + FEATURES)
    found = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    theirs = time.process_time() - started
    strengths = ratings.scale * (found.x[:models] - found.x[:models].mean())
    difference = np.abs(ratings.rating - 1000 - strengths).max()
    print(f"{votes:,} votes with style: scipy's L-BFGS takes {theirs / ours:.1f} times as long as")
    print(f"the fit with its errors; ratings differ by at most {difference:.1e} points")


@contextmanager
def step(name: str) -> Iterator[None]:
    started = time.process_time()
    yield
    print(f"{name}: {time.process_time() - started:.1f} s, peak {memory():.0f} MB", flush=True)


def memory() -> float:
    """Return the largest resident memory so far in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
