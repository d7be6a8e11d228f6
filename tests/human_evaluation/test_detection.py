"""Searches for one-sided accounts, groups of accounts, and campaigns."""

import numpy as np
import pytest

from human_evaluation.account_groups import bursts, simultaneous
from human_evaluation.campaigns import find_campaigns, untipped
from human_evaluation.detection import Reason, campaign_findings, e_bh, one_sided
from human_evaluation.detection_config import DetectionConfig
from human_evaluation.votes import NONE, Array, Index, Sides, Votes, log_odds, share_of, sides_of

CONFIG = DetectionConfig()
DAY = 86_400.0
TARGET = 2


def battles_of(
    rng: np.random.Generator, account: Index, fan_odds: float = 1.0, fans: Array | None = None
) -> Votes:
    """Return votes on six equal subjects, a fifth of them ties; fans favour the target."""
    count = len(account)
    first = rng.integers(0, 6, count)
    second = (first + rng.integers(1, 6, count)) % 6
    is_fan = np.zeros(count, dtype=bool) if fans is None else np.isin(account, fans)
    favour = np.where(first == TARGET, 1, np.where(second == TARGET, -1, 0)) * is_fan
    chance = share_of(favour * np.log(fan_odds))
    score = (rng.random(count) < chance).astype(float)
    # A tie instead of any score keeps the mean at the allowance only without fans.
    score = np.where((rng.random(count) < 0.2) & (favour == 0), 0.5, score)
    return Votes(account, first, second, score, rng.random(count) * DAY, np.full(count, NONE))


def tip(votes: Votes, accounts: Index) -> Votes:
    """Let accounts decide each battle of the target for it."""
    score = votes.score.copy()
    is_tipping = np.isin(votes.account, accounts)
    score[is_tipping & (votes.first == TARGET)] = 1
    score[is_tipping & (votes.second == TARGET)] = 0
    return Votes(votes.account, votes.first, votes.second, score, votes.time, votes.item)


def equal_sides(votes: Votes) -> Sides:
    return sides_of(votes, np.full(len(votes), 0.5))


def test_e_bh_rejects_the_largest_set_that_satisfies_the_bound() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = np.exp(rng.normal(1, 3, 30))
        best = 0
        for size in range(1, 31):
            if np.sort(values)[::-1][size - 1] >= 30 / (0.1 * size):
                best = size
        assert e_bh(np.log(values), 0.1).sum() == best


def test_honest_accounts_and_fans_within_the_allowance_are_not_found() -> None:
    rng = np.random.default_rng(1)
    account = rng.integers(0, 300, 30_000)
    votes = battles_of(rng, account, CONFIG.fan_odds, np.arange(30))
    assert one_sided(votes, equal_sides(votes), 300, CONFIG) == []


def test_account_with_battles_of_the_target_only_is_found_with_evidence() -> None:
    rng = np.random.default_rng(2)
    votes = battles_of(rng, rng.integers(0, 300, 12_000))
    second = np.where(votes.account == 7, (TARGET + 1 + votes.second % 5) % 6, votes.second)
    first = np.where(votes.account == 7, TARGET, votes.first)
    second = np.where(first == second, (second + 1) % 6, second)
    second = np.where((votes.account == 7) & (second == TARGET), (TARGET + 1) % 6, second)
    votes = tip(
        Votes(votes.account, first, second, votes.score, votes.time, votes.item), np.array([7])
    )
    (finding,) = one_sided(votes, equal_sides(votes), 300, CONFIG)
    assert (finding.account, finding.subject, finding.favours) == (7, TARGET, True)
    assert finding.reason is Reason.SELECTED
    assert finding.votes == finding.all_votes == np.count_nonzero(votes.account == 7)
    assert (finding.score, finding.expected) == (1, 0.5)
    assert finding.evidence > 300 / CONFIG.false_findings


def test_account_that_always_opposes_a_subject_is_found_by_direction() -> None:
    rng = np.random.default_rng(3)
    account = np.concatenate([np.zeros(600, dtype=int), rng.integers(1, 300, 12_000)])
    votes = tip(battles_of(rng, account), np.array([0]))
    against = Votes(account, votes.second, votes.first, votes.score, votes.time, votes.item)
    (finding,) = one_sided(against, equal_sides(against), 300, CONFIG)
    assert (finding.account, finding.subject, finding.favours) == (0, TARGET, False)
    assert finding.reason is Reason.ONE_SIDED


def test_burst_of_new_accounts_is_a_group_and_growth_is_not() -> None:
    rng = np.random.default_rng(4)
    growing = 300 * np.sqrt(rng.uniform(0, 1, 3_000)) * DAY
    burst = (200 + rng.uniform(0, 0.25, 60)) * DAY
    label = bursts(np.concatenate([growing, burst]), CONFIG)
    assert (label[-60:] == 0).sum() >= 58
    assert (label[:-60] != NONE).sum() <= 5


def test_accounts_created_evenly_are_in_no_burst() -> None:
    rng = np.random.default_rng(5)
    found = [(bursts(rng.uniform(0, 90, 1_000) * DAY, CONFIG) != NONE).any() for _ in range(20)]
    assert not any(found)


def test_accounts_with_the_same_rare_items_are_a_group() -> None:
    rng = np.random.default_rng(6)
    pairs = [(account, item) for account in range(12) for item in range(100, 104)]
    pairs += [(account, 7) for account in range(200)]  # a frequent item
    pairs += [(account, 1_000 + account) for account in range(200)]
    pairs += [(20, 100), (21, 100)]  # a single item in common
    account, item = np.array(pairs).T
    zeros = np.zeros(len(pairs), dtype=int)
    time = rng.random(len(pairs)) * DAY
    votes = Votes(account, zeros, zeros + 1, zeros + 0.5, time, item)
    label = simultaneous(votes, 200, CONFIG)
    assert set(np.flatnonzero(label != NONE)) == set(range(12))
    assert len(set(label[:12])) == 1
    apart = Votes(account, zeros, zeros + 1, zeros + 0.5, time + account * DAY, item)
    assert (simultaneous(apart, 200, CONFIG) == NONE).all()


@pytest.mark.parametrize("fans", [0, 60])
def test_no_campaign_among_honest_accounts(fans: int) -> None:
    """Fans of each subject are alike in number, so none has more than the others."""
    rng = np.random.default_rng(7)
    for _ in range(5):
        votes = battles_of(rng, rng.integers(0, 1_000, 20_000))
        for subject in range(6):
            members = np.arange(subject * 60, subject * 60 + fans)
            turned = (votes.first + TARGET - subject) % 6, (votes.second + TARGET - subject) % 6
            turned_votes = Votes(votes.account, *turned, votes.score, votes.time, votes.item)
            score = tip(turned_votes, members).score
            votes = Votes(votes.account, votes.first, votes.second, score, votes.time, votes.item)
        found = find_campaigns(equal_sides(votes), 1_000, {}, np.zeros(1_000, dtype=bool), CONFIG)
        assert found == []


def test_campaign_of_accounts_that_tip_few_battles_each() -> None:
    rng = np.random.default_rng(8)
    tipping = np.arange(80)
    votes = tip(battles_of(rng, rng.integers(0, 1_000, 25_000)), tipping)
    known = np.zeros(1_000, dtype=bool)
    assert one_sided(votes, equal_sides(votes), 1_000, CONFIG) == []
    (campaign,) = find_campaigns(equal_sides(votes), 1_000, {}, known, CONFIG)
    assert (campaign.group, campaign.subject, campaign.favours) == ("", TARGET, True)
    assert campaign.share == pytest.approx(0.08, abs=0.015)
    findings = campaign_findings(votes, equal_sides(votes), 1_000, [campaign], CONFIG)
    members = {finding.account for finding in findings}
    assert len(members - set(tipping)) <= (1 - CONFIG.certainty) * len(members)
    assert len(members) >= 20
    weight = untipped(votes, 1_000, [campaign])
    on_target = (votes.first == TARGET) | (votes.second == TARGET)
    assert (weight[~on_target] == 1).all()
    # The weighted mean score of the target is that of equal subjects again.
    score = np.where(votes.first == TARGET, votes.score, 1 - votes.score)[on_target]
    assert score.mean() > 0.52
    assert np.average(score, weights=weight[on_target]) == pytest.approx(0.5, abs=0.012)


def test_members_of_a_tipping_group_are_found_with_few_votes_each() -> None:
    rng = np.random.default_rng(9)
    group = np.full(1_000, NONE)
    group[:40] = 5
    votes = tip(battles_of(rng, rng.integers(0, 1_000, 10_000)), np.arange(40))
    known = np.zeros(1_000, dtype=bool)
    found = find_campaigns(equal_sides(votes), 1_000, {"burst": group}, known, CONFIG)
    assert found[0].group == "burst 5"
    findings = campaign_findings(votes, equal_sides(votes), 1_000, found, CONFIG)
    members = {finding.account for finding in findings}
    assert len(members & set(range(40))) >= 36
    assert len(members - set(range(40))) <= 2


def test_thumbs_of_a_group_for_a_version_are_a_campaign() -> None:
    rng = np.random.default_rng(10)
    account = np.concatenate([np.arange(1_000), np.arange(1_000)])
    version = account % 2
    score = (rng.random(2_000) < 0.6).astype(float)
    score[(account < 60)] = version[account < 60]  # up for version 1, down for version 0
    votes = Votes(
        account, version, np.full(2_000, NONE), score, np.zeros(2_000), np.full(2_000, NONE)
    )
    group = np.where(np.arange(1_000) < 60, 0, NONE)
    sides = sides_of(votes, np.full(2_000, 0.6))
    known = np.zeros(1_000, dtype=bool)
    found = find_campaigns(sides, 1_000, {"cluster": group}, known, CONFIG)
    assert [(one.group, one.subject, one.favours) for one in found] == [("cluster 0", 1, True)]
    findings = campaign_findings(votes, sides, 1_000, found, CONFIG)
    assert {finding.account for finding in findings} == set(range(60))


def test_expected_scores_outside_their_limits_are_refused() -> None:
    votes = battles_of(np.random.default_rng(11), np.array([0, 1]))
    with pytest.raises(ValueError, match=r"^expected: "):
        sides_of(votes, np.array([0.5, 1.0]))
    assert log_odds(share_of(np.array([1.5])))[0] == pytest.approx(1.5)


def test_two_subjects_are_in_every_battle_which_is_no_evidence() -> None:
    rng = np.random.default_rng(12)
    account = rng.integers(0, 20, 4_000)
    first = rng.integers(0, 2, 4_000)
    favour = np.where(first == 0, 0.9, 0.1)  # one account is a fan of the first subject
    score = (rng.random(4_000) < np.where(account == 0, favour, 0.5)).astype(float)
    none = np.full(4_000, NONE)
    votes = Votes(account, first, 1 - first, score, rng.random(4_000) * DAY, none)
    assert one_sided(votes, equal_sides(votes), 20, CONFIG) == []
    known = np.zeros(20, dtype=bool)
    group = {"cluster": np.zeros(20, dtype=int)}
    assert find_campaigns(equal_sides(votes), 20, group, known, CONFIG) == []


def test_accounts_that_met_early_subjects_only_are_not_selecting() -> None:
    """Two subjects were there first, four more joined later; no account voted in both times, and
    one of the early accounts is a fan."""
    rng = np.random.default_rng(13)
    count = 12_000
    time = np.arange(count, dtype=float)
    is_early = time < count / 2
    account = np.where(is_early, rng.integers(0, 40, count), rng.integers(40, 300, count))
    first = np.where(is_early, rng.integers(0, 2, count), rng.integers(0, 6, count))
    second = np.where(is_early, 1 - first, (first + rng.integers(1, 6, count)) % 6)
    favour = np.where(first == 0, 0.9, np.where(second == 0, 0.1, 0.5))
    score = (rng.random(count) < np.where(account == 0, favour, 0.5)).astype(float)
    votes = Votes(account, first, second, score, time, np.full(count, NONE))
    assert one_sided(votes, equal_sides(votes), 300, CONFIG) == []
    known = np.zeros(300, dtype=bool)
    assert find_campaigns(equal_sides(votes), 300, {}, known, CONFIG) == []
