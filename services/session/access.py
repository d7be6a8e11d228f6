"""Which services may call which method here, where certificates tell them apart. A method that is
not in the table is denied.
"""

from collections.abc import Mapping

GATEWAY = frozenset({"gateway"})

CALLERS: Mapping[str, frozenset[str]] = {
    "thumbwheel.session.v1.SessionService.BeginTurn": GATEWAY,
    "thumbwheel.session.v1.SessionService.FinishTurn": GATEWAY,
    "thumbwheel.session.v1.SessionService.GetMessage": GATEWAY,
    "thumbwheel.session.v1.SessionService.GetConversation": GATEWAY,
    "thumbwheel.session.v1.SessionService.ListConversations": GATEWAY,
    "thumbwheel.session.v1.SessionService.ClearConversation": GATEWAY,
    "thumbwheel.session.v1.SessionService.DeleteConversation": GATEWAY,
    "thumbwheel.session.v1.SessionService.EraseUser": GATEWAY,
}
