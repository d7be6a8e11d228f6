"""Simulate the canary's test of thumbs: wrong decisions on equal versions, and power.

Usage: python -m benchmarks.canary_thumbs [--trials 2000] [--power-trials 500], 0 to omit

Each user is one outcome: the share of thumbs up among the user's thumbs. "Majority" is the outcome
before 2026-11-29: 1 or 0 by the majority of the thumbs, none for a tie.
Equal versions: users with one thumb, looked at after every user, at several rates and several
shares of the candidate, one of which rises by the steps of the canary; then users with 1 to 50
thumbs, looked at after every thumb and every retraction, so that shares move during the test.
Power is measured with a look after every 20 users, or 10 if users are few.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from sequential.rates import SHARE_EFFECTS, log_e_of_terms, mixture_shifts, share_terms
from sequential.rows import ALPHA_SHARES, Verdict

Array = npt.NDArray[np.float64]
Arms = npt.NDArray[np.bool_]
Index = npt.NDArray[np.intp]
Counts = tuple[Array, Array, Array, Array]

ALPHA = 0.05
PROMOTE_LOG_E = -math.log(ALPHA)
ROLL_BACK_LOG_E = -math.log(ALPHA * ALPHA_SHARES["thumbs"])
USERS = 2_000  # of both arms, for equal versions and one thumb a user
STEPS = (0.02, 0.05, 0.2, 0.5)
MAX_THUMBS = 100  # of a user
RETRACTED = 0.05


@dataclass(frozen=True)
class Trial:
    """Canary whose users give all their thumbs at once.

    Attributes:
        stable: mean chance of a thumb up with the stable version.
        candidate: the same with the candidate.
        users: users of the candidate at the end.
        ratio: users of the stable version for each of them.
        thumbs: thumbs of each user.
        correlation: of the thumbs of a user; 0 if all users have the same chance.
    """

    stable: float
    candidate: float
    users: int
    ratio: int = 1
    thumbs: int = 1
    correlation: float = 0.0


POWER = (
    Trial(0.6, 0.5, 4_000),
    Trial(0.6, 0.65, 4_000),
    Trial(0.6, 0.65, 5_000),
    Trial(0.6, 0.65, 2_500, ratio=4),
    Trial(0.45, 0.6, 300),
    Trial(0.45, 0.8, 100),
)
MANY_THUMBS = (
    Trial(stable, candidate, 120, thumbs=15, correlation=correlation)
    for (stable, candidate), correlation in product(
        ((0.65, 0.85), (0.81, 0.90), (0.80, 0.85), (0.85, 0.80)), (0.0, 0.1)
    )
)
FEW_USERS = (30, 60, 120)


class UserThumbs:
    """Thumbs of the users of both arms, [trials, users], and the tests of the row of thumbs.

    Args:
        by_majority: count the users by their majority.
    """

    def __init__(self, trials: int, users: int, by_majority: bool = False) -> None:
        self._up, self._n = (np.zeros((trials, users), np.intp) for _ in range(2))
        up, n = np.indices((MAX_THUMBS + 1, MAX_THUMBS + 1))
        shares, counted = outcomes(np.minimum(up, n), n, by_majority)
        self._shifts = mixture_shifts(SHARE_EFFECTS)[0], -mixture_shifts(SHARE_EFFECTS)[1]
        self._share_of, self._counted = shares * counted, counted.astype(float)
        self._terms_of = [share_terms(self._share_of, shifts) for shifts in self._shifts]
        self._terms = [np.zeros((trials, 2, shifts.size)) for shifts in self._shifts]
        self._users, self._shares = (np.zeros((trials, 2)) for _ in range(2))

    def add(self, trial: Index, user: Index, arm: Index, up: Index, thumbs: int) -> None:
        """Add to the thumbs up and to all thumbs of a user in each of these trials."""
        old = self._up[trial, user], self._n[trial, user]
        new = old[0] + up, old[1] + thumbs
        self._up[trial, user], self._n[trial, user] = new
        self._users[trial, arm] += self._counted[new] - self._counted[old]
        self._shares[trial, arm] += self._share_of[new] - self._share_of[old]
        for terms, of in zip(self._terms, self._terms_of, strict=True):
            terms[trial, arm] += of[new] - of[old]

    def look(self, promoted: Arms, rolled_back: Arms, trial: Index) -> None:
        """Note the decisions in these trials, [trials]. The lower mean has no evidence."""
        means = self._shares / np.maximum(self._users, 1)
        decisions = ((promoted, PROMOTE_LOG_E), (rolled_back, ROLL_BACK_LOG_E))
        for first, (seen, limit) in enumerate(decisions):
            picked = trial[(means[trial, first] > means[trial, 1 - first]) & ~seen[trial]]
            picked = picked[self._bound(picked, first) >= limit]
            if picked.size:
                log_e = log_e_of_terms(*self._of(picked, first), 0.0, SHARE_EFFECTS)
                seen[picked[log_e >= limit]] = True

    def _of(self, picked: Index, first: int) -> Counts:
        up, down = self._terms
        users, second = self._users[picked], 1 - first
        return up[picked, first], users[:, first], down[picked, second], users[:, second]

    def _bound(self, picked: Index, first: int) -> Array:
        counts = self._of(picked, first)
        return log_e_at_mean(counts, self._shares[picked].sum(1) / (counts[1] + counts[3]))


def outcomes(up: Index, n: Index, by_majority: bool) -> tuple[Array, Arms]:
    """Return the outcome of users with thumbs, and which of them count."""
    shares = up / np.maximum(n, 1)
    if by_majority:
        return np.rint(shares), (n > 0) & (2 * up != n)
    return shares, n > 0


def log_e_at_mean(counts: Counts, mean: Array) -> Array:
    """Return the evidence against the mean of both arms, which is at least that against all."""
    up, down = mixture_shifts(SHARE_EFFECTS)
    first, users, second, others = counts
    logs = first - users[:, None] * np.log1p(mean[:, None] * np.expm1(up))
    logs = logs + second - others[:, None] * np.log1p(mean[:, None] * np.expm1(-down))
    peak: Array = logs.max(axis=1)
    mean_of_all: Array = peak + np.log(np.exp(logs - peak[:, None]).mean(axis=1))
    return mean_of_all


def decide(is_candidate: Arms, shares: Array, counted: Arms, step: int) -> tuple[Verdict, int]:
    """Return the decision, and the candidate's users until then.

    Args:
        is_candidate: arms of the users in their order.
        shares: outcomes of the users.
        counted: users with an outcome.
        step: users between looks.
    """
    arms = is_candidate & counted, ~is_candidate & counted
    users = [np.cumsum(arm)[step - 1 :: step].astype(float) for arm in arms]
    mean = np.cumsum(shares * counted)[step - 1 :: step] / np.maximum(users[0] + users[1], 1)
    up, down = mixture_shifts(SHARE_EFFECTS)
    found = []
    for first, limit in ((0, PROMOTE_LOG_E), (1, ROLL_BACK_LOG_E)):
        second, counts = 1 - first, []
        for arm, shifts in ((first, up), (second, -down)):
            terms = np.cumsum(share_terms(shares, shifts) * arms[arm][:, None], axis=0)
            counts += [terms[step - 1 :: step], users[arm]]
        found.append(first_look((counts[0], counts[1], counts[2], counts[3]), mean, limit))
    seen = int(np.cumsum(is_candidate)[step - 1 :: step][min(*found, len(mean) - 1)])
    if min(found) == len(mean):
        return Verdict.WAIT, seen
    return (Verdict.PROMOTE if found[0] < found[1] else Verdict.ROLL_BACK), seen


def first_look(counts: Counts, mean: Array, limit: float) -> int:
    """Return the first look with a decision, the number of looks without one."""
    looks = np.flatnonzero(log_e_at_mean(counts, mean) >= limit)
    for some in np.array_split(looks, len(looks) // 16 + 1):
        first, users, second, others = (count[some] for count in counts)
        log_e = log_e_of_terms(first, users, second, others, 0.0, SHARE_EFFECTS)
        if (reached := some[log_e >= limit]).size:
            return int(reached[0])
    return len(mean)


def chances_of(rng: np.random.Generator, mean: Array, correlation: float) -> Array:
    """Return the users' chances of a thumb up, from a Beta distribution."""
    if not correlation:
        return mean
    size = 1 / correlation - 1
    return rng.beta(mean * size, (1 - mean) * size)


def simulate(
    rng: np.random.Generator, trial: Trial, by_majority: bool = False
) -> tuple[Verdict, int]:
    """Simulate a canary; see `decide`."""
    arms = np.tile(np.arange(1 + trial.ratio) == 0, trial.users)
    mean = np.where(arms, trial.candidate, trial.stable)
    n = np.full(len(arms), trial.thumbs)
    up = rng.binomial(n, chances_of(rng, mean, trial.correlation))
    step = 20 * (1 + trial.ratio) if trial.users >= 1_000 else 10
    return decide(arms, *outcomes(up, n, by_majority), step)


def orders(rng: np.random.Generator, order: str, thumbs: Index, trials: int) -> Iterator[Index]:
    """Yield the users who give the next thumb, [trials].

    Args:
        order: "mixed", all thumbs in random order; "rounds", the first thumbs of all users before
            the second ones; "in turn", all thumbs of a user before those of the next.
        thumbs: numbers of thumbs by user.
    """
    users = np.repeat(np.arange(len(thumbs)), thumbs)
    if order == "mixed":
        yield from rng.permuted(np.tile(users, (trials, 1)), axis=1).T
        return
    if order == "rounds":
        rounds = np.concatenate([np.arange(n) for n in thumbs])
        users = users[np.argsort(rounds, kind="stable")]
    for user in users:
        yield np.full(trials, user)


def moving_shares(
    rng: np.random.Generator,
    trials: int,
    users: int,
    mean: float,
    correlation: float,
    order: str,
    candidate_thumbs: float = 1.0,
) -> dict[bool, tuple[Arms, Arms]]:
    """Simulate equal versions with a look after every thumb and every retraction.

    Args:
        candidate_thumbs: part of their thumbs that users of the candidate give, at least one.

    Returns:
        The promoted trials and those rolled back, by shares (False) and by majorities (True).
    """
    thumbs = rng.permutation(np.geomspace(1, 50, users).round().astype(np.intp))
    arms = rng.integers(0, 2, (trials, users))  # 0 is the candidate
    chances = chances_of(rng, np.full((trials, users), mean), correlation)
    tests = {by_majority: UserThumbs(trials, users, by_majority) for by_majority in (False, True)}
    seen = {name: (np.zeros(trials, bool), np.zeros(trials, bool)) for name in tests}
    given = np.zeros((trials, users), np.intp)
    most = np.where(arms == 0, np.ceil(candidate_thumbs * thumbs), thumbs)
    row = np.arange(trials)
    for user in orders(rng, order, thumbs, trials):
        is_given = given[row, user] < most[row, user]
        given[row, user] += 1
        up = (rng.random(trials) < chances[row, user]).astype(np.intp)
        is_retracted = is_given & (rng.random(trials) < RETRACTED)
        for name, test in tests.items():
            for is_changed, change in ((is_given, 1), (is_retracted, -1)):
                trial = np.flatnonzero(is_changed)
                arm = arms[trial, user[trial]]
                test.add(trial, user[trial], arm, change * up[trial], change)
                test.look(*seen[name], trial)
    return seen


def show_equal_versions(rng: np.random.Generator, trials: int) -> None:
    print(f"Equal versions, {trials} canaries of {USERS} users, a look after every user")
    shares = {f"{share:g}": np.full(USERS, share) for share in (0.05, 0.2, 0.5)}
    shares["0.02 to 0.5"] = np.repeat(STEPS, USERS // len(STEPS))
    user = np.arange(USERS)
    for rate, (name, share) in product((0.02, 0.3, 0.6, 0.95), shares.items()):
        test = UserThumbs(trials, USERS)
        promoted, rolled_back = np.zeros(trials, bool), np.zeros(trials, bool)
        for number in user:
            arm = (rng.random(trials) >= share[number]).astype(np.intp)
            up = (rng.random(trials) < rate).astype(np.intp)
            test.add(np.arange(trials), np.full(trials, number), arm, up, 1)
            test.look(promoted, rolled_back, np.arange(trials))
        print(f"  {rate:.0%} up, share {name}: {decided(promoted, rolled_back)}", flush=True)


def show_moving_shares(rng: np.random.Generator, trials: int) -> None:
    print(f"Equal versions, {trials} canaries of users with 1 to 50 thumbs, a look after every one")
    cases = [
        *product((200,), (0.6, 0.9), (0.0, 0.1, 0.3), ("mixed", "rounds", "in turn"), (1.0,)),
        *product((40,), (0.6, 0.9), (0.1,), ("mixed", "rounds"), (1.0,)),
        *product((600,), (0.65, 0.8), (0.1,), ("mixed",), (0.02,)),
    ]
    for users, mean, correlation, order, part in cases:
        seen = moving_shares(rng, trials, users, mean, correlation, order, part)
        fewer = ", the candidate's give one" if part < 1 else ""
        print(
            f"  {users} users{fewer}, {mean:.0%} up, correlation {correlation}, {order}: "
            f"{decided(*seen[False])}; by majorities {decided(*seen[True])}",
            flush=True,
        )


def decided(promoted: Arms, rolled_back: Arms) -> str:
    return (
        f"{rolled_back.mean():.2%} rolled back (bound {ALPHA * ALPHA_SHARES['thumbs']:.1%}), "
        f"{promoted.mean():.2%} promoted (bound {ALPHA:.0%})"
    )


def show_power(rng: np.random.Generator, trials: int) -> None:
    for trial in POWER:
        found = [simulate(rng, trial) for _ in range(trials)]
        for verdict in (Verdict.ROLL_BACK, Verdict.PROMOTE):
            needed = [number for reached, number in found if reached is verdict]
            median = f", median {np.median(needed):.0f} users of the candidate" if needed else ""
            print(
                f"{trial.stable:.0%} -> {trial.candidate:.0%}, {trial.users} and "
                f"{trial.ratio * trial.users} users: {verdict} {len(needed) / trials:.1%}{median}",
                flush=True,
            )
    for trial in MANY_THUMBS:
        right = Verdict.PROMOTE if trial.candidate > trial.stable else Verdict.ROLL_BACK
        texts = []
        for by_majority in (True, False):
            found = [simulate(rng, trial, by_majority) for _ in range(trials)]
            numbers = np.array([number for reached, number in found if reached is right])
            parts = [f"{(numbers <= users).sum() / trials:.1%}" for users in FEW_USERS]
            wrong = sum(reached not in (right, Verdict.WAIT) for reached, _ in found) / trials
            texts.append(f"{', '.join(parts)} (wrong {wrong:.1%})")
        print(
            f"{trial.thumbs} thumbs a user, {trial.stable:.0%} -> {trial.candidate:.0%}, "
            f"correlation {trial.correlation}, {FEW_USERS} users an arm: "
            f"majority {texts[0]}, share {texts[1]}",
            flush=True,
        )


def parse_options(description: str | None) -> argparse.Namespace:
    """Return the numbers of trials and the seed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--trials", type=int, default=2_000)
    parser.add_argument("--power-trials", type=int, default=500)
    parser.add_argument("--seed", type=int, default=21)
    return parser.parse_args()


def main() -> None:
    options = parse_options(__doc__)
    rng, started = np.random.default_rng(options.seed), time.process_time()
    if options.power_trials:
        show_power(rng, options.power_trials)
    if options.trials:
        show_equal_versions(rng, options.trials)
        show_moving_shares(rng, options.trials)
    print(f"{time.process_time() - started:.0f} s of the processor")


if __name__ == "__main__":
    main()
