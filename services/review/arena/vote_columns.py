"""Counted votes of a tenant in columns, for ratings and the search for arranged votes."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from human_evaluation.battles import Battles
from human_evaluation.style import style_difference
from human_evaluation.trust import TrustConfig, weigh
from human_evaluation.votes import NONE, Accounts, Votes

DAY_US = 86_400_000_000

Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class AccountColumns:
    """Accounts of a tenant.

    Attributes:
        principals: pseudonyms, A.
        create_us: time of the first vote, [A].
        weight: trust by agreement with the others, 0 to 1, [A].
        quarantined: accounts whose votes do not count, [A].
        released: accounts that an operator has found honest, [A].
    """

    principals: tuple[str, ...]
    create_us: Index
    weight: Array
    quarantined: Mask
    released: Mask

    def accounts(self) -> Accounts:
        """Return the accounts for `human_evaluation`; no cluster is known beforehand."""
        cluster = np.full(len(self.principals), NONE, np.int64)
        return Accounts(created=self.create_us / 1e6, cluster=cluster)

    def trust_config(self, now_us: int) -> TrustConfig:
        """Return the rules of trust.

        In a young arena all accounts are young, and their age separates the first user from the
        second only. An account therefore has its full weight at half the age of the oldest account,
        at the latest at the age that the rules give.
        """
        usual = TrustConfig()
        oldest_us = now_us - int(self.create_us.min()) if len(self.create_us) else 0
        half_days = max(0, oldest_us) / 2 / DAY_US
        return replace(usual, age_days=min(usual.age_days, half_days))


@dataclass(frozen=True, eq=False)
class VoteColumns:
    """Votes that are not set aside and have a weight of their own, oldest first.

    Attributes:
        models: names, M.
        first, second: models of the answers, as indices into `models`, [N].
        score: 1 if the first answer won, 0 if the second won, 0.5 for a tie, [N].
        account: index into `accounts`, [N].
        vote_us: time of the vote, [N].
        style: counts of the style features of both answers, [N, 2, F].
        accounts: accounts of the tenant.
        set_aside: number of votes that were set aside.
    """

    models: tuple[str, ...]
    first: Index
    second: Index
    score: Array
    account: Index
    vote_us: Index
    style: Array
    accounts: AccountColumns
    set_aside: int

    def __len__(self) -> int:
        return len(self.first)

    @property
    def is_quarantined(self) -> Mask:
        """Votes of quarantined accounts, [N]."""
        found: Mask = self.accounts.quarantined[self.account]
        return found

    def votes(self) -> Votes:
        """Return the votes for `human_evaluation`; questions are not recorded here."""
        return Votes(
            account=self.account,
            first=self.first,
            second=self.second,
            score=self.score,
            time=self.vote_us / 1e6,
            item=np.full(len(self), NONE, np.int64),
        )

    def battles(self, now_us: int) -> Battles:
        """Return the votes with the weights that follow from the trust in their accounts."""
        weight = weigh(
            self.votes(),
            self.accounts.accounts(),
            now_us / 1e6,
            self.accounts.trust_config(now_us),
            agreement=self.accounts.weight,
            quarantined=self.accounts.quarantined,
        )
        return Battles(
            models=self.models,
            first=self.first,
            second=self.second,
            score=self.score,
            weight=weight,
            voter=self.account,
            features=style_difference(self.style[:, 0], self.style[:, 1]),
        )
