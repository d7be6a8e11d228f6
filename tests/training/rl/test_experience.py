"""Rows of minibatches, on one rank and on two."""

from dataclasses import dataclass

import torch

from training.rl.experience import shuffled_rows
from training.runtime.ranks import ALONE, Ranks


@dataclass(frozen=True)
class WithAnother(Ranks):
    """Rank 0 of 2 with a fixed number of live rows on the other rank."""

    others: int = 0

    def sum(self, value: torch.Tensor) -> torch.Tensor:
        value[1] += self.others
        return value


def test_every_row_occurs_once_in_seeded_order() -> None:
    live = torch.ones(12, dtype=torch.bool)
    one, same, other = (list(shuffled_rows(live, 4, seed, ALONE)) for seed in (1, 1, 2))
    assert [len(part) for part in one] == [4, 4, 4]
    assert sorted(torch.cat(one).tolist()) == list(range(12))
    assert torch.equal(torch.cat(one), torch.cat(same))
    assert not torch.equal(torch.cat(one), torch.cat(other))


def test_filtered_rows_are_omitted_and_others_spread_evenly() -> None:
    live = torch.arange(16) % 3 == 0  # six of sixteen
    parts = list(shuffled_rows(live, 4, 1, ALONE))
    assert [len(part) for part in parts] == [3, 3]
    assert sorted(torch.cat(parts).tolist()) == [0, 3, 6, 9, 12, 15]
    assert list(shuffled_rows(torch.zeros(8, dtype=torch.bool), 4, 1, ALONE)) == []


def test_all_ranks_take_the_same_number_of_equal_steps() -> None:
    live = torch.arange(16) < 2
    parts = list(shuffled_rows(live, 4, 1, WithAnother(0, 2, 0, 2, others=10)))
    assert [len(part) for part in parts] == [4, 3, 3]
    assert {0, 1} <= set(torch.cat(parts).tolist())
    assert (
        len(
            list(
                shuffled_rows(
                    torch.zeros(16, dtype=torch.bool), 4, 1, WithAnother(0, 2, 0, 2, others=4)
                )
            )
        )
        == 1
    )
