"""Simulate the canary's test of thumbs: wrong decisions on equal versions, and power.

Usage: python -m benchmarks.canary_thumbs [--trials 2000] [--power-trials 500], 0 to omit

Each user has one opinion. Equal versions are looked at after every user, at several rates of liked
answers and several shares, one of which rises by the steps of the canary. Power is measured with a
look after every 20 users. A quick upper bound selects the looks that need the e-value.
"""

from __future__ import annotations

import math
import time
from collections import Counter

import numpy as np
import numpy.typing as npt

from benchmarks.canary import parse_options
from sequential.rates import log_e_value, log_likelihood_ratio
from sequential.rows import ALPHA_SHARES, Verdict

Array = npt.NDArray[np.float64]
Arms = npt.NDArray[np.bool_]

ALPHA = 0.05
USERS = 2_000  # of both arms, for equal versions
STEPS = (0.02, 0.05, 0.2, 0.5)
# Users who like the stable version and the candidate, the candidate's users, and the stable
# version's users for each of them.
POWER = (
    (0.6, 0.5, 4_000, 1),
    (0.6, 0.65, 4_000, 1),
    (0.6, 0.65, 5_000, 1),
    (0.6, 0.65, 2_500, 4),
    (0.45, 0.6, 300, 1),
    (0.45, 0.8, 100, 1),
)


def decide(
    rng: np.random.Generator, is_candidate: Arms, stable: float, candidate: float, step: int
) -> tuple[Verdict, int]:
    """Return the decision, and the candidate's users until then.

    Args:
        is_candidate: arms of the users in their order.
        stable: chance of a liking user of the stable version.
        candidate: chance of a liking user of the candidate.
        step: users between looks.
    """
    is_up = rng.random(len(is_candidate)) < np.where(is_candidate, candidate, stable)
    up, n, other_up, other_n = (
        np.cumsum(seen)[step - 1 :: step].astype(float)
        for seen in (is_candidate & is_up, is_candidate, ~is_candidate & is_up, ~is_candidate)
    )
    better = first_look((up, n, other_up, other_n), ALPHA)
    worse = first_look((other_up, other_n, up, n), ALPHA * ALPHA_SHARES["thumbs"])
    if min(better, worse) == len(n):
        return Verdict.WAIT, int(n[-1])
    verdict = Verdict.PROMOTE if better < worse else Verdict.ROLL_BACK
    return verdict, int(n[min(better, worse)])


def first_look(counts: tuple[Array, Array, Array, Array], alpha: float) -> int:
    """Return the first look with a decision, the number of looks without one."""
    looks = np.flatnonzero(log_likelihood_ratio(*counts) >= -math.log(alpha))
    if looks.size:
        first, trials, second, other_trials = (count[looks] for count in counts)
        looks = looks[log_e_value(first, trials, second, other_trials) >= -math.log(alpha)]
    return int(looks[0]) if looks.size else len(counts[0])


def show_equal_versions(rng: np.random.Generator, trials: int) -> None:
    print(f"Equal versions, {trials} canaries of {USERS} users, a look after every user")
    shares = {f"{share:g}": np.full(USERS, share) for share in (0.05, 0.2, 0.5)}
    shares["0.02 to 0.5"] = np.repeat(STEPS, USERS // len(STEPS))
    for rate in (0.02, 0.3, 0.6, 0.95):
        for name, share in shares.items():
            found = Counter(
                decide(rng, rng.random(USERS) < share, rate, rate, 1)[0] for _ in range(trials)
            )
            print(
                f"  {rate:.0%} liked, share {name}: "
                f"{found[Verdict.ROLL_BACK] / trials:.2%} rolled back (bound 2.5 %), "
                f"{found[Verdict.PROMOTE] / trials:.2%} promoted (bound 5 %)",
                flush=True,
            )


def show_power(rng: np.random.Generator, trials: int) -> None:
    for stable, candidate, users, ratio in POWER:
        arms = np.tile(np.arange(1 + ratio) == 0, users)
        step = 20 * (1 + ratio) if users >= 1_000 else 10
        found = [decide(rng, arms, stable, candidate, step) for _ in range(trials)]
        for verdict in (Verdict.ROLL_BACK, Verdict.PROMOTE):
            needed = [number for reached, number in found if reached is verdict]
            median = f", median {np.median(needed):.0f} users of the candidate" if needed else ""
            print(
                f"{stable:.0%} -> {candidate:.0%}, {users} and {ratio * users} users: "
                f"{verdict} {len(needed) / trials:.1%}{median}",
                flush=True,
            )


def main() -> None:
    options = parse_options(__doc__)
    rng, started = np.random.default_rng(options.seed), time.process_time()
    if options.power_trials:
        show_power(rng, options.power_trials)
    if options.trials:
        show_equal_versions(rng, options.trials)
    print(f"{time.process_time() - started:.0f} s of the processor")


if __name__ == "__main__":
    main()
