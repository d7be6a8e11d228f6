"""Simulate canaries: false alarms over all rows, and requests until harm is found.

Thumbs alone: benchmarks/canary_thumbs.py.

Usage: python -m benchmarks.canary [--trials 2000] [--power-trials 500], 0 to omit

A/A: both arms have the same version. 10 of 510 users give half of the requests and thumbs; users
differ in opinion, errors, rates, latency and lengths; 5 % of the thumbs are retracted. Rates and
thumbs are looked at after every event, histograms after every fifth request. A quick upper bound of
each e-value selects the looks that need the e-value.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from benchmarks.canary_thumbs import UserThumbs, parse_options
from sequential import rows as table
from sequential.figures import RATIO
from sequential.histograms import (
    BINS,
    EDGE_STEP,
    log_e_distribution,
    log_e_quantile,
)
from sequential.rates import (
    EFFECTS,
    RARE_EFFECTS,
    log_e_value,
    log_likelihood_ratio,
)

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Counts = tuple[Array, Array, Array, Array]

SHARE, REQUESTS, USERS, HEAVY = 0.2, 2_000, 510, 10
THUMBED, RETRACTED, LIKED = 0.3, 0.05, 0.6
# Means of the rates, and the correlation of a user's trials.
RATES = {"errors": 0.01, "refused": 0.02, "asked_again": 0.1, "edited": 0.05, "stopped": 0.05}
RATES["left"] = 0.2
CORRELATION = 0.1
# Median, standard deviation of the logarithm, and the share of its variance between users.
LATENCY, ANSWER, TOTAL = (300.0, 0.5, 0.1), (150.0, 0.8, 0.5), (800.0, 0.8, 0.5)
VALUES = {"first_text_ms": LATENCY, "answer_tokens": ANSWER, "total_tokens": TOTAL}
HISTOGRAM_LOOKS = 5
MORE_MS = 50.0


def threshold(name: str, alpha: float = 0.05) -> float:
    return -math.log(alpha * table.ALPHA_SHARES[name])


class Alarms:
    """First alarms by row and trial."""

    def __init__(self, trials: int) -> None:
        self.rows = {name: np.zeros(trials, bool) for name in table.ALPHA_SHARES}
        self.promoted = np.zeros(trials, bool)

    def look(self, name: str, bound: Array, exact: Callable[[Index], Array]) -> None:
        """Compute the e-values of the trials whose bound reaches the threshold."""
        seen, limit = self.rows[name], threshold(name)
        picked = np.flatnonzero((bound >= limit) & ~seen)
        if picked.size:
            seen[picked[exact(picked) >= limit]] = True

    def any(self) -> npt.NDArray[np.bool_]:
        seen: npt.NDArray[np.bool_] = np.array(list(self.rows.values())).sum(axis=0) > 0
        return seen


def beta_rates(rng: np.random.Generator, mean: float, shape: tuple[int, ...]) -> Array:
    """Return rates of users, whose trials then have the correlation CORRELATION."""
    size = 1 / CORRELATION - 1
    return rng.beta(mean * size, (1 - mean) * size, shape)


class Sums:
    """Sums over users of a rate, for both arms, [trials, arm]."""

    def __init__(self, trials: int) -> None:
        self.n, self.x = (np.zeros((trials, USERS)) for _ in range(2))
        self.trials, self.events, self.nn, self.xx, self.xn = (
            np.zeros((trials, 2)) for _ in range(5)
        )
        self._index = np.arange(trials)

    def add(self, user: Index, arm: Index, n: Array, x: Array) -> None:
        """Add n trials and x events of a user in each trial."""
        i = self._index
        old_n, old_x = self.n[i, user], self.x[i, user]
        new_n, new_x = old_n + n, old_x + x
        self.trials[i, arm] += n
        self.events[i, arm] += x
        self.nn[i, arm] += new_n**2 - old_n**2
        self.xx[i, arm] += new_x**2 - old_x**2
        self.xn[i, arm] += new_n * new_x - old_n * old_x
        self.n[i, user], self.x[i, user] = new_n, new_x

    def repetition(self) -> Array:
        return self.nn / np.maximum(self.trials, 1)

    def effects(self) -> Array:
        """Return design effects as `sequential.rows` does, [trials, arm]."""
        pooled = (self.events.sum(1) / np.maximum(self.trials.sum(1), 1))[:, None]
        least = 1 + table.RATE_CORRELATION * (self.repetition() - 1)
        squares = self.xx - 2 * pooled * self.xn + pooled**2 * self.nn
        variance = pooled * (1 - pooled) * self.trials
        found: Array = np.maximum(
            np.where(self.trials > 0, least, 1), squares / np.maximum(variance, 1e-9)
        )
        return found


def scaled(sums: Sums, effects: Array) -> Counts:
    x, n = sums.events / effects, sums.trials / effects
    return x[:, 0], n[:, 0], x[:, 1], n[:, 1]


def picked_of(counts: Counts, picked: Index) -> Counts:
    return counts[0][picked], counts[1][picked], counts[2][picked], counts[3][picked]


def look_at_rate(
    alarms: Alarms, name: str, counts: Counts, tolerance: float, effects: Array = EFFECTS
) -> None:
    # Without the tolerance the ratio is larger, and has a closed form.
    alarms.look(
        name,
        np.where((counts[1] > 0) & (counts[3] > 0), log_likelihood_ratio(*counts), 0.0),
        lambda picked: log_e_value(*picked_of(counts, picked), tolerance, effects),
    )


def bin_of(values: Array) -> Index:
    found = np.floor(np.log(np.maximum(values, 1.0)) / math.log(RATIO))
    return np.minimum(found, BINS - 1).astype(np.intp)


class Histogram:
    """Histograms of both arms, [trials, arm, BINS], and the tests on them."""

    def __init__(self, rng: np.random.Generator, trials: int, figures: str) -> None:
        self._rng, self._index = rng, np.arange(trials)
        median, self._sd, share = VALUES[figures]
        self._within = math.sqrt(1 - share) * self._sd
        self._centre = np.log(median) + rng.normal(0, math.sqrt(share) * self._sd, (trials, USERS))
        self.counts = np.zeros((trials, 2, BINS))
        self._tests = {k: t for k, t in table.HISTOGRAM_TESTS.items() if t.figures == figures}

    def add(self, user: Index, arm: Index) -> None:
        centre = self._centre[self._index, user]
        values = np.exp(centre + self._rng.normal(0, self._within, centre.shape))
        self.counts[self._index, arm, bin_of(values)] += 1

    def look(self, alarms: Alarms, repetition: Array) -> None:
        if not self.counts.sum(2).all():
            return
        for name, test in self._tests.items():
            arms = self.counts / (1 + test.correlation * (repetition - 1))[:, :, None]
            first, second = arms[:, 0], arms[:, 1]
            alarms.look(name, bound(first, second, test), exact_of(first, second, test))


def exact_of(first: Array, second: Array, test: table.HistogramTest) -> Callable[[Index], Array]:
    def exact(picked: Index) -> Array:
        if test.share is None:
            return log_e_distribution(first[picked], second[picked], test.shift)
        return log_e_quantile(first[picked], second[picked], test.share, test.shift)

    return exact


def bound(first: Array, second: Array, test: table.HistogramTest) -> Array:
    """Return an upper bound without shift: the largest likelihood ratio over all values."""
    edges = slice(EDGE_STEP, None, EDGE_STEP) if test.share is None else slice(1, None)
    above = [np.cumsum(arm[:, ::-1], axis=1)[:, ::-1] for arm in (first, second)]
    totals = [arm[:, :1] for arm in above]
    if test.share is None:
        ratios = log_likelihood_ratio(above[0][:, edges], totals[0], above[1][:, edges], totals[1])
        largest: Array = ratios.max(axis=1)
        return largest
    # The minimum over all values is at most the ratio at the median, or quantile, of both arms.
    pooled = (above[0] / totals[0] + above[1] / totals[1]) / 2
    q = np.argmax(pooled < 1 - test.share, axis=1)
    row = np.arange(len(q))
    one = np.full(len(q), 1 - test.share)
    later = np.minimum(q + 1, BINS - 1)
    return _one(above[0][row, later], totals[0][:, 0], one) + _one(
        totals[1][:, 0] - above[1][row, q], totals[1][:, 0], 1 - one
    )


def _one(x: Array, n: Array, rate: Array) -> Array:
    """Return the largest log-likelihood ratio of a rate above `rate`."""
    share = np.clip(x / n, 1e-12, 1 - 1e-12)
    ratio = x * np.log(share / rate) + (n - x) * np.log((1 - share) / (1 - rate))
    return np.where(share > rate, ratio, 0.0)


def equal_versions(rng: np.random.Generator, trials: int) -> tuple[Alarms, Alarms]:
    """Simulate A/A canaries, all trials at once, event by event.

    Returns:
        The alarms of all rows, and those of thumbs by the users' majorities.
    """
    index, alarms = np.arange(trials), Alarms(trials)
    arms = (rng.random((trials, USERS)) >= SHARE).astype(np.intp)  # 0 is the candidate
    chances = np.full(USERS, 0.5 / (USERS - HEAVY))
    chances[:HEAVY] = 0.5 / HEAVY
    rates = {name: beta_rates(rng, mean, (trials, USERS)) for name, mean in RATES.items()}
    likes = beta_rates(rng, LIKED, (trials, USERS))
    retracts = beta_rates(rng, RETRACTED, (trials, USERS))
    sums = {name: Sums(trials) for name in (*RATES, "retracted")}
    histograms = [Histogram(rng, trials, figures) for figures in VALUES]
    thumbs = [UserThumbs(trials, USERS, by_majority) for by_majority in (False, True)]
    before = Alarms(trials)
    for number in range(1, REQUESTS + 1):
        user = rng.choice(USERS, size=trials, p=chances)
        arm = arms[index, user]
        for name, chance in rates.items():
            happened = (rng.random(trials) < chance[index, user]).astype(float)
            sums[name].add(user, arm, np.ones(trials), happened)
            if name == "errors":
                # The service knows no users: the repetition is that of finished answers.
                effects = 1 + table.RATE_CORRELATION * (sums["refused"].repetition() - 1)
                counts = scaled(sums[name], np.maximum(effects, 1))
                look_at_rate(alarms, name, counts, table.ERROR_TOLERANCE, RARE_EFFECTS)
                continue
            counts = scaled(sums[name], sums[name].effects())
            look_at_rate(alarms, name, counts, table.RATE_TOLERANCES[name])
        is_thumbed = rng.random(trials) < THUMBED
        up = (rng.random(trials) < likes[index, user]).astype(np.intp)
        gone = is_thumbed & (rng.random(trials) < retracts[index, user])
        sums["retracted"].add(user, arm, is_thumbed.astype(float), gone.astype(float))
        for counts_of, noted in zip(thumbs, (alarms, before), strict=True):
            for given, change in ((is_thumbed, 1), (gone, -1)):
                trial = np.flatnonzero(given)
                counts_of.add(trial, user[trial], arm[trial], change * up[trial], change)
                counts_of.look(noted.promoted, noted.rows["thumbs"], trial)
        counts = scaled(sums["retracted"], sums["retracted"].effects())
        look_at_rate(alarms, "retracted", counts, table.RATE_TOLERANCES["retracted"])
        for histogram in histograms:
            histogram.add(user, arm)
            if number % HISTOGRAM_LOOKS == 0:
                histogram.look(alarms, np.maximum(sums["refused"].repetition(), 1))
    return alarms, before


def requests_until(
    rng: np.random.Generator, trials: int, sample: Callable[[int, float], Array], kind: str
) -> Iterator[int]:
    """Yield the candidate's requests until an alarm; 4 stable requests for each, users with 3."""
    step, most = 20, 4_000
    n = np.arange(step, most + 1, step).astype(float)
    effect = 1 + table.RATE_CORRELATION * (4 - 1)  # requests by user are geometric around 3
    for _ in range(trials):
        if kind == "errors":
            x = np.cumsum(rng.random(most) < 0.03)[step - 1 :: step] / effect
            y = np.cumsum(rng.random(4 * most) < 0.01)[4 * step - 1 :: 4 * step] / effect
            e = log_e_value(x, n / effect, y, 4 * n / effect, table.ERROR_TOLERANCE, RARE_EFFECTS)
            found = e >= threshold("errors")
        else:
            first = _histograms(bin_of(sample(most, MORE_MS)), step) / effect
            second = _histograms(bin_of(sample(4 * most, 0.0)), 4 * step) / effect
            found = np.zeros(len(n), bool)
            for name in ("first text p50", "first text p95"):
                test = table.HISTOGRAM_TESTS[name]
                e = log_e_quantile(first, second, test.share or 0.0, test.shift)
                found |= e >= threshold(name)
        yield int(n[found.argmax()]) if found.any() else most + 1


def _histograms(bins: Index, step: int) -> Array:
    """Return the counts after every `step` values, [looks, BINS]."""
    looks = len(bins) // step
    counts = np.zeros((looks, BINS))
    np.add.at(counts, (np.arange(len(bins)) // step, bins), 1)
    return np.cumsum(counts, axis=0)


def latencies(rng: np.random.Generator) -> Callable[[int, float], Array]:
    """Return a source of log-normal latencies, users with 3 requests, and an added delay."""

    def sample(number: int, more: float) -> Array:
        median, sd, share = LATENCY
        users = np.repeat(rng.normal(0, math.sqrt(share) * sd, number // 3 + 1), 3)[:number]
        noise = rng.normal(0, math.sqrt(1 - share) * sd, number)
        values: Array = median * np.exp(users + noise) + more
        return values

    return sample


def main() -> None:
    options = parse_options(__doc__)
    rng, started = np.random.default_rng(options.seed), time.monotonic()
    if options.trials:
        show_false_alarms(rng, options.trials)
        print(f"{time.monotonic() - started:.0f} s", flush=True)
    if options.power_trials:
        show_power(rng, options.power_trials)
        print(f"{time.monotonic() - started:.0f} s")


def show_false_alarms(rng: np.random.Generator, trials: int) -> None:
    alarms, before = equal_versions(rng, trials)
    print(f"A/A: false alarms over all rows {alarms.any().mean():.2%} of {trials} (bound 5 %)")
    for name, seen in alarms.rows.items():
        print(f"  {name}: {seen.mean():.2%} (bound {0.05 * table.ALPHA_SHARES[name]:.2%})")
    print(f"  promoted: {alarms.promoted.mean():.2%} (bound 5 %)")
    print(
        f"  by majorities: thumbs {before.rows['thumbs'].mean():.2%}, "
        f"promoted {before.promoted.mean():.2%}"
    )


def show_power(rng: np.random.Generator, trials: int) -> None:
    for kind in ("errors", "latency"):
        needed = np.array(list(requests_until(rng, trials, latencies(rng), kind)))
        quarters = np.percentile(needed, [25, 50, 75, 90])
        print(f"{kind}: candidate requests until the alarm, quartiles and p90: {quarters}")


if __name__ == "__main__":
    main()
