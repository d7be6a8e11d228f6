"""Allowed callers of the session service, by method; a method without an entry is denied.

The names of callers are verified by their tokens, and with mutual TLS by their certificates.
"""

from collections.abc import Mapping

GATEWAY = frozenset({"gateway"})
# Reads the answers of a battle.
REVIEW = frozenset({"review"})

CALLERS: Mapping[str, frozenset[str]] = {
    "thumbwheel.session.v1.SessionService.BeginTurn": GATEWAY,
    "thumbwheel.session.v1.SessionService.FinishTurn": GATEWAY,
    "thumbwheel.session.v1.SessionService.GetMessage": GATEWAY | REVIEW,
    "thumbwheel.session.v1.SessionService.GetConversation": GATEWAY,
    "thumbwheel.session.v1.SessionService.ListConversations": GATEWAY,
    "thumbwheel.session.v1.SessionService.ClearConversation": GATEWAY,
    "thumbwheel.session.v1.SessionService.DeleteConversation": GATEWAY,
    "thumbwheel.session.v1.SessionService.EraseUser": GATEWAY,
}
