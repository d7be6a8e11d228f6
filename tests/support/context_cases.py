"""Contexts and token budgets with the messages that fit, for serving and for training.

Session selects the context of a turn; training shortens the contexts of its rows. Both must keep
the same messages.
"""

from typing import NamedTuple


class ContextCase(NamedTuple):
    """Messages as (role, tokens), oldest first, a budget, and the positions that are kept.

    `kept` is None if the last message does not fit in addition to the system messages.
    """

    messages: tuple[tuple[str, int], ...]
    budget: int
    kept: tuple[int, ...] | None


S, U, A = "system", "user", "assistant"
TALK = ((S, 10), (U, 10), (A, 10), (U, 10), (A, 10), (U, 10))
LONG = tuple((A if at % 2 else U, 5 + at % 7) for at in range(79))
CASES = (
    ContextCase(TALK, 60, (0, 1, 2, 3, 4, 5)),
    ContextCase(TALK, 59, (0, 3, 4, 5)),
    ContextCase(TALK, 40, (0, 3, 4, 5)),
    ContextCase(TALK, 39, (0, 5)),  # an answer is never the oldest message
    ContextCase(TALK, 20, (0, 5)),
    ContextCase(TALK, 19, None),
    ContextCase(TALK[1:], 49, (2, 3, 4)),
    ContextCase(TALK[1:2], 10, (0,)),
    ContextCase(TALK[1:2], 9, None),
    # A long message ends the context, although older messages would fit.
    ContextCase(((U, 1), (A, 1), (U, 90), (A, 1), (U, 1)), 50, (4,)),
    # A conversation of 40 turns.
    ContextCase(LONG, sum(tokens for _, tokens in LONG), tuple(range(79))),
    ContextCase(LONG, sum(tokens for _, tokens in LONG[60:]), tuple(range(60, 79))),
    ContextCase(LONG, sum(tokens for _, tokens in LONG[59:]), tuple(range(60, 79))),
)
