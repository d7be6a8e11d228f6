"""Groups of accounts that are alike in creation or in the items of their votes.

Being in a group is no finding: a popular day brings many honest accounts. Groups are where
`campaigns` searches first.
"""

from __future__ import annotations

import math

import numpy as np

from human_evaluation.detection_config import DetectionConfig
from human_evaluation.votes import NONE, Array, Index, Votes

MINUTE_SECONDS = 60.0
WEEK_SECONDS = 604_800.0
MAX_BURSTS = 200


def bursts(created: Array, config: DetectionConfig) -> Index:
    """Return the group of each account by bursts of creation; -1 without a burst, [A].

    A window is a burst if its number of accounts is improbable for a Poisson distribution with the
    usual rate, corrected for all windows. The usual rate is the larger of that of all accounts and
    that of a week before and after the window, each without the window, so growth is no burst. The
    least probable window is taken first, and the others are searched without its accounts
    (the scan statistic of Kulldorff 1997 with secondary clusters).
    """
    label = np.full(len(created), NONE, dtype=np.int64)
    limit = math.log(config.false_bursts / max(1, len(created) * len(config.burst_windows_minutes)))
    for burst in range(MAX_BURSTS):
        left = np.flatnonzero(label == NONE)
        if len(left) < config.least_members:
            break
        left = left[np.argsort(created[left], kind="stable")]
        windows = [
            _least_probable(created[left], minutes * MINUTE_SECONDS, config.least_members)
            for minutes in config.burst_windows_minutes
        ]
        log_p, first, end = min(windows)
        if log_p >= limit:
            break
        label[left[first:end]] = burst
    return label


def _least_probable(times: Array, seconds: float, least: int) -> tuple[float, int, int]:
    """Return the window with the least probable number of accounts: the logarithm of a bound of
    that probability, its first account, and the first one after it.
    """
    end = np.searchsorted(times, times + seconds, side="right")
    count = end - np.arange(len(times))
    usual = np.maximum(_rate(times, seconds, math.inf), _rate(times, seconds, WEEK_SECONDS))
    mean = np.maximum(usual * seconds, 1e-9)
    # Chernoff's bound of the Poisson tail needs no special functions.
    log_p = np.where(
        (count >= least) & (count > mean), count - mean - count * np.log(count / mean), 0.0
    )
    first = int(log_p.argmin())
    return float(log_p[first]), first, int(end[first])


def _rate(times: Array, seconds: float, reach: float) -> Array:
    """Return accounts per second within reach of each window, without the window itself."""
    first, last = times[0], times[-1]
    low = np.maximum(times - reach, first)
    high = np.minimum(times + seconds + reach, last)
    inside = np.searchsorted(times, times + seconds, side="right") - np.arange(len(times))
    around = np.searchsorted(times, high, side="right") - np.searchsorted(times, low, side="left")
    rate: Array = (around - inside) / np.maximum(high - low - seconds, seconds)
    return rate


def simultaneous(votes: Votes, accounts: int, config: DetectionConfig) -> Index:
    """Return the group of each account by rare items voted on in the same window; -1 for none, [A].

    Two accounts with `shared_items` items in common are in one group, and so are the accounts of
    groups that have an account in common.
    """
    known = np.flatnonzero(votes.item != NONE)
    window = (votes.time[known] // (config.item_window_minutes * MINUTE_SECONDS)).astype(np.int64)
    keys = np.stack([votes.item[known], window, votes.account[known]], axis=1)
    keys = np.unique(keys, axis=0)  # an account counts once for an item
    _, act = np.unique(keys[:, :2], axis=0, return_inverse=True)
    account = keys[:, 2]
    pairs = []
    for members in np.split(account, np.flatnonzero(np.diff(act.ravel())) + 1):
        if 1 < len(members) <= config.item_accounts:
            left, right = np.triu_indices(len(members), 1)
            pairs.append(members[left] * accounts + members[right])
    label = np.full(accounts, NONE, dtype=np.int64)
    if not pairs:
        return label
    pair, times = np.unique(np.concatenate(pairs), return_counts=True)
    pair = pair[times >= config.shared_items]
    return _components(pair // accounts, pair % accounts, accounts, config.least_members)


def _components(left: Index, right: Index, accounts: int, least: int) -> Index:
    """Return the connected components with enough members, -1 for all other accounts."""
    root = np.arange(accounts)
    while True:
        lower = root.copy()
        np.minimum.at(lower, left, root[right])
        np.minimum.at(lower, right, root[left])
        lower = lower[lower]
        if (lower == root).all():
            break
        root = lower
    size = np.bincount(root, minlength=accounts)
    return np.where(size[root] >= least, root, NONE)
