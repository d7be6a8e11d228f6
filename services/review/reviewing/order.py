"""Order in which a reviewer sees the answers of an item.

The order is a function of item and reviewer, so that no table has to keep it: a hash of both with
the place of the answer sorts the answers. A reviewer cannot compute it, because the pseudonym of a
reviewer depends on a secret key.
"""

import hashlib
from collections.abc import Sequence

ANSWER_IDS = ("a", "b", "c", "d", "e", "f")


def shown_order(item_id: str, principal: str, answers: int) -> Sequence[int]:
    """Return the places of the answers, as drawn, in the order in which the reviewer sees them."""

    def key(place: int) -> bytes:
        return hashlib.sha256(f"{item_id}/{principal}/{place}".encode()).digest()

    return sorted(range(answers), key=key)


def drawn_order(answers: int) -> Sequence[int]:
    """Return the places of the answers in the order of the draw, for exports."""
    return range(answers)
