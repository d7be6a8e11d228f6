"""Settings of the detection of accounts that vote by arrangement."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DetectionConfig:
    """Settings of the searches.

    Attributes:
        false_findings: bound on the expected share of honest accounts among one-sided accounts.
        fan_odds: odds by which an honest fan favours a subject; more is one-sided. A fan with
            these odds wins 90 % of the battles of equal subjects.
        fan_selection: multiple of the assigned share of battles that honest accounts may have.
        fans: least allowance for the share of accounts that are fans of a single subject.
        selecting_fans: the same for fans with hardly any vote on other subjects.
        tip: share of the battles that a tipping account decides for its subject.
        burst_windows_minutes: windows in which bursts of new accounts are searched.
        false_bursts: bound on the probability of a burst among independent new accounts.
        shared_items: rare items that two accounts of a group have in common.
        item_accounts: number of accounts up to which an item is rare.
        item_window_minutes: window in which votes on an item count as simultaneous.
        least_members: number of accounts of the smallest group.
        false_campaigns: bound on the probability of a campaign without tipping accounts, over all
            groups, subjects and directions.
        certainty: probability that an account tips, from which it is quarantined.
    """

    false_findings: float = 0.02
    fan_odds: float = 9.0
    fan_selection: float = 2.0
    fans: float = 0.003
    selecting_fans: float = 0.001
    tip: float = 0.97
    burst_windows_minutes: tuple[float, ...] = (60.0, 360.0, 1_440.0, 4_320.0)
    false_bursts: float = 0.001
    shared_items: int = 3
    item_accounts: int = 50
    item_window_minutes: float = 1_440.0
    least_members: int = 10
    false_campaigns: float = 0.001
    certainty: float = 0.7

    def __post_init__(self) -> None:
        for name in ("false_findings", "fans", "tip", "false_bursts", "false_campaigns"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not between 0 and 1")
        for name in ("fan_odds", "fan_selection", "shared_items", "item_accounts"):
            if not getattr(self, name) >= 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not at least 1")
        if not 0.5 <= self.certainty < 1:
            raise ValueError(f"certainty: {self.certainty} is not from 0.5 to below 1")
        if self.least_members < 2:
            raise ValueError(f"least_members: {self.least_members} is not at least 2")
