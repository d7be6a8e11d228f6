"""Allowed callers of the review service, by method; a method without an entry is denied.

The gateway serves ArenaService to users, checks their scopes, and forwards the calls.
"""

from collections.abc import Mapping

GATEWAY = frozenset({"gateway"})

CALLERS: Mapping[str, frozenset[str]] = {
    "thumbwheel.review.v1.ArenaService.CreateBattle": GATEWAY,
    "thumbwheel.review.v1.ArenaService.GetBattle": GATEWAY,
    "thumbwheel.review.v1.ArenaService.VoteBattle": GATEWAY,
    "thumbwheel.review.v1.ArenaService.GetLeaderboard": GATEWAY,
    "thumbwheel.review.v1.BattleModelService.ResolveBattleModel": GATEWAY,
}
