"""Drill: poisoned thumbs in a canary, and poisoned corrections in training sets.

Usage: python -m benchmarks.poisoning_feedback [--trials 200] [--levels nothing age], 0 to omit

Canary: 2,000 honest users and 200 hostile accounts, a fifth of both in the candidate's arm. The
hostile accounts know their arm, the worst case, and give thumbs up to one version and down to the
other, to promote a worse version (60 % -> 55 % thumbs up) or to roll back a better one (60 % ->
65 %). Each user is one opinion of an arm, as in the canary. Its weight in the test is 1, or that of
the feedback service by the age of the account at the start of the canary, or that of the trust and
the detection for votes, which depends on the thumbs. Accounts of the attack came during the canary
(new), are old but created within six hours, old and in one cluster known to the operator, or old
without any trace. Equal versions without an attack show false alarms.

Corrections: 2,000 honest users with 12,000 judgements, a tenth of them corrections, and 200
accounts that write poisoned corrections, three each or as many as permitted.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from human_evaluation.defence import defend
from human_evaluation.detection_config import DetectionConfig
from human_evaluation.trust import DAY_SECONDS, TrustConfig, weigh
from human_evaluation.votes import NONE, Accounts, Array, Index, Votes, log_odds
from sequential.rates import SHARE_EFFECTS, log_e_of_terms, mixture_shifts, share_terms
from sequential.rows import ALPHA_SHARES
from services.feedback.projections.account_age import DAY_US, FULL, AccountAge
from training.data.chat import Message
from training.data.feedback.judgements import Judgement
from training.data.feedback.sets import SetsConfig, make_sets

Mask = npt.NDArray[np.bool_]

HONEST, HOSTILE = 2_000, 200
SHARE = 0.2
APPROVAL = 0.6
CORRELATION = 0.1
CANARY_DAYS = 5.0
ALPHA = 0.05
LOOK = 20  # users between looks
CANDIDATE, STABLE = 0, 1
# A user is one opinion whatever the number of its thumbs, so the number gives no trust.
THUMBS = TrustConfig(full_votes=1)
ACCOUNTS = ("none", "new", "burst", "cluster", "traceless")
LEVELS = ("nothing", "age", "trust and detection")
AGE = AccountAge(7 * DAY_US)  # the default of the feedback service
MAX_PER_PRINCIPAL = 100  # of the loop's recipes
QUESTIONS = 3_000
POISON = "poisoned answer"


def make_accounts(rng: np.random.Generator, kind: str) -> Accounts:
    """Return accounts at the end of the canary, at time 0; the last HOSTILE are the attacker's."""
    honest = -rng.uniform(0, 365, HONEST)
    cluster = np.full(HONEST + HOSTILE, NONE)
    if kind == "new":
        hostile = -CANARY_DAYS * rng.uniform(0, 1, HOSTILE)
    elif kind == "burst":
        hostile = -40 + 0.25 * rng.uniform(0, 1, HOSTILE)
    else:
        hostile = -rng.uniform(30, 365, HOSTILE)
    if kind == "cluster":
        cluster[HONEST:] = 1
    return Accounts(np.concatenate([honest, hostile]) * DAY_SECONDS, cluster)


def make_thumbs(rng: np.random.Generator, kind: str, candidate: float, favours: int) -> Votes:
    """Return the thumbs of all users; without an attack the last accounts give none.

    Args:
        candidate: mean share of thumbs up of the candidate.
        favours: version that the attacker favours.
    """
    users = HONEST + (HOSTILE if kind != "none" else 0)
    version = np.where(rng.random(users) < SHARE, CANDIDATE, STABLE)
    mean = np.where(version == CANDIDATE, candidate, APPROVAL)
    size = 1 / CORRELATION - 1
    chance = rng.beta(mean * size, (1 - mean) * size)
    thumbs = np.minimum(rng.geometric(0.4, users), 20)
    account = np.repeat(np.arange(users), thumbs)
    score = (rng.random(len(account)) < chance[account]).astype(float)
    hostile = account >= HONEST
    score[hostile] = (version[account] == favours)[hostile]
    none = np.full(len(account), NONE)
    time_of = -CANARY_DAYS * DAY_SECONDS * rng.random(len(account))
    return Votes(account, version[account], none, score, time_of, none)


def user_weights(votes: Votes, accounts: Accounts, level: str) -> Array:
    """Return the weight of each user, from 0 to 1, [A].

    Args:
        level: one of LEVELS.
    """
    users = len(accounts)
    if level == "nothing":
        return np.ones(users)
    if level == "age":
        since_us = int(-CANARY_DAYS * DAY_US)
        created_us = (accounts.created * 1e6).astype(int).tolist()
        return np.array([AGE.tenths(each, since_us) / FULL for each in created_us])
    thumbs = np.maximum(1, np.bincount(votes.account, minlength=users))

    def approval(weight: Array) -> Array:
        up = np.bincount(votes.first, weight * votes.score / thumbs[votes.account], 2)
        every = np.bincount(votes.first, weight / thumbs[votes.account], 2)
        return log_odds((up + 1) / (every + 2))

    weight = defend(votes, accounts, 0.0, approval, THUMBS, DetectionConfig()).weight
    weights: Array = np.bincount(votes.account, weight, users) / thumbs
    return weights


def decide(rng: np.random.Generator, votes: Votes, weight: Array) -> str:
    """Return the decision of the row of thumbs with users in random order and many looks."""
    users = np.unique(votes.account)
    up = np.bincount(votes.account, votes.score, len(weight))[users]
    shares = up / np.bincount(votes.account, minlength=len(weight))[users]
    version = np.zeros(len(weight), dtype=np.int64)
    version[votes.account] = votes.first
    order = rng.permutation(len(users))
    shares, arm, weights = shares[order], version[users][order], weight[users][order]
    up_shift, down_shift = mixture_shifts(SHARE_EFFECTS)
    firsts = {}
    limits = {"promoted": 1 / ALPHA, "rolled back": 1 / (ALPHA * ALPHA_SHARES["thumbs"])}
    for (name, limit), first in zip(limits.items(), (CANDIDATE, STABLE), strict=True):
        sums, trials = [], []
        for side, shifts in ((first, up_shift), (1 - first, -down_shift)):
            # A weight of at most 1 as an exponent keeps the mean of a factor at most 1 (Jensen).
            member = np.where(arm == side, weights, 0.0)
            sums.append(
                np.cumsum(share_terms(shares, shifts) * member[:, None], axis=0)[LOOK::LOOK]
            )
            trials.append(np.cumsum(member)[LOOK::LOOK])
        log_e = log_e_of_terms(sums[0], trials[0], sums[1], trials[1], 0.0, SHARE_EFFECTS)
        reached = np.flatnonzero(log_e >= np.log(limit))
        firsts[name] = int(reached[0]) if reached.size else len(log_e)
    first_name = min(firsts, key=lambda name: firsts[name])
    return first_name if firsts[first_name] < (len(users) - 1) // LOOK else "undecided"


def show_canary(trials: int, seed: int, levels: Sequence[str]) -> None:
    """Print the decisions by kind of accounts and level of defence."""
    for purpose, candidate, favours, kinds in (
        ("equal versions", APPROVAL, CANDIDATE, ("none",)),
        ("promote a worse version", APPROVAL - 0.05, CANDIDATE, ACCOUNTS),
        ("roll back a better version", APPROVAL + 0.05, STABLE, ACCOUNTS),
    ):
        for kind in kinds:
            texts = []
            for level in levels:
                rng = np.random.default_rng(seed)
                decisions: Counter[str] = Counter()
                hostile, honest = [], []
                for _ in range(trials):
                    accounts = make_accounts(rng, kind)
                    votes = make_thumbs(rng, kind, candidate, favours)
                    weight = user_weights(votes, accounts, level)
                    decisions[decide(rng, votes, weight)] += 1
                    hostile.append(weight[HONEST:].mean())
                    honest.append(weight[:HONEST].mean())
                shown = ", ".join(f"{name} {n / trials:.0%}" for name, n in decisions.most_common())
                texts.append(
                    f"{level}: {shown} (weight of hostile {np.mean(hostile):.2f}, "
                    f"of honest {np.mean(honest):.2f})"
                )
            print(f"{purpose}, accounts {kind}: {'; '.join(texts)}", flush=True)


def make_judgements(rng: np.random.Generator, each: int) -> list[Judgement]:
    """Return honest judgements and the poisoned corrections of HOSTILE accounts.

    Args:
        each: corrections of a hostile account.
    """
    activity = rng.lognormal(0, 1.2, HONEST)
    users = rng.choice(HONEST, 12_000, p=activity / activity.sum())
    is_correction = rng.random(len(users)) < 0.1
    rows = [
        (f"user-{user}", int(question), "a better answer" if corrects else None)
        for user, question, corrects in zip(
            users, rng.integers(0, QUESTIONS, len(users)), is_correction, strict=True
        )
    ]
    rows += [
        (f"hostile-{account}", int(question), f"{POISON} {account}")
        for account in range(HOSTILE)
        for question in rng.choice(QUESTIONS, each, replace=False)
    ]
    return [
        Judgement(
            message_id=f"message-{number}",
            principal=user,
            model_version="nano-1",
            arm="stable",
            context=(Message("user", f"question {question}"),),
            answer=f"answer {rng.integers(4)}",
            up=None if correction else bool(rng.random() < 0.6),
            correction=correction,
        )
        for number, (user, question, correction) in enumerate(rows)
    ]


def poisoned(judgements: list[Judgement], config: SetsConfig) -> str:
    """Return the poisoned shares of the SFT examples and pairs."""
    sets = make_sets(judgements, config)
    is_bad = np.array([POISON in line["response"] for line in sets.sft])
    weight = np.array([line["weight"] for line in sets.sft])
    of_weight = weight[is_bad].sum() / weight.sum()
    pairs = {"pairs": sets.pairs, "pairs of the judge": sets.judge_pairs}
    texts = [f"{is_bad.mean():.1%} of {len(is_bad):,} SFT examples ({of_weight:.1%} of the weight)"]
    for name, some in pairs.items():
        bad = sum(POISON in pair.chosen for pair in some)
        texts.append(f"{bad / max(1, len(some)):.1%} of {len(some):,} {name}")
    return ", ".join(texts)


def trusted_share(judgements: list[Judgement], accounts: Accounts) -> float:
    """Return the hostile accounts' share of the weight of corrections by trust."""
    names = {f"user-{number}": number for number in range(HONEST)}
    names |= {f"hostile-{number}": HONEST + number for number in range(HOSTILE)}
    account: Index = np.array([names[one.principal] for one in judgements if one.correction])
    count = len(account)
    none = np.full(count, NONE)
    moments = -CANARY_DAYS * DAY_SECONDS * np.linspace(0, 1, count)
    votes = Votes(account, np.zeros(count, dtype=np.int64), none, np.ones(count), moments, none)
    weight = weigh(votes, accounts, 0.0, TrustConfig())
    return float(weight[account >= HONEST].sum() / weight.sum())


def as_group(judgement: Judgement) -> Judgement:
    """Return a judgement of the attacker under a common principal, others as they are."""
    is_hostile = judgement.principal.startswith("hostile")
    return replace(judgement, principal="group") if is_hostile else judgement


def show_corrections(seed: int) -> None:
    """Print the poisoned part of training sets by cap."""
    config = SetsConfig(redact_personal_data=False)
    for each in (1, 3, MAX_PER_PRINCIPAL):
        rng = np.random.default_rng(seed)
        judgements = make_judgements(rng, each)
        share = HOSTILE * each / len(judgements)
        print(f"{each} corrections of each account, {share:.1%} of all judgements:")
        grouped = [as_group(one) for one in judgements]
        for name, some, cap in (
            ("no cap", judgements, 1.0),
            ("cap of users", judgements, config.max_user_share),
            ("cap of the group", grouped, config.max_user_share),
        ):
            print(f"  {name}: {poisoned(some, replace(config, max_user_share=cap))}", flush=True)
        shares = [
            f"{kind} {trusted_share(judgements, make_accounts(rng, kind)):.1%}"
            for kind in ACCOUNTS[1:]
        ]
        print(f"  share of the weight of corrections by trust: {', '.join(shares)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=LEVELS)
    options = parser.parse_args()
    started = time.process_time()
    show_corrections(options.seed)
    show_canary(options.trials, options.seed, options.levels)
    print(f"{time.process_time() - started:.0f} s of the processor")


if __name__ == "__main__":
    main()
