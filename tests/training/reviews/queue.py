"""The review service's items in memory, and turns of the feedback table for draws."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from thumbwheel.review.v1 import review_pb2

from tests.training.feedback_log import principal_of, uid
from training.data.chat import Message
from training.data.feedback.events import FinishReason, Turn

NOW = datetime(2026, 11, 29, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000
DAY_US = 86_400_000_000


class Queue:
    """Items by id, the sizes of the requests, and what was asked to be removed."""

    def __init__(self) -> None:
        self.items: dict[str, review_pb2.DrawnItem] = {}
        self.requests: list[Sequence[review_pb2.DrawnItem]] = []
        self.removed: list[str] = []

    def add(self, items: Sequence[review_pb2.DrawnItem]) -> int:
        self.requests.append(list(items))
        new = {one.item.item_id: one for one in items if one.item.item_id not in self.items}
        self.items |= new
        return len(new)

    def remove(self, principals: Sequence[str] = (), item_ids: Sequence[str] = ()) -> int:
        self.removed += principals
        gone = [
            item_id
            for item_id, one in self.items.items()
            if one.principal in principals or item_id in item_ids
        ]
        for item_id in gone:
            del self.items[item_id]
        return len(gone)

    def names(self) -> set[str]:
        """Return the ids of the answers for which items were drawn."""
        return {one.message_id for one in self.items.values()}


def columns(days: float = 1.0, tenant: str = "acme", **changes: Any) -> dict[str, Any]:
    """Return the columns of a turn that finished some days before NOW."""
    return {"tenant": tenant, "finish_time": NOW - timedelta(days=days), **changes}


def answered(name: str, user: str = "ann", asked: str = "", **changes: Any) -> Turn:
    """Return a turn that finished a day before NOW, in a conversation of its own.

    Args:
        name: of the answer; `at` of the changes orders answers.
        user: of the conversation.
        asked: the question; by default its own.
        changes: fields of the turn; `days` is its age.
    """
    values: dict[str, Any] = {
        "place": (0, 1, changes.pop("at", 0)),
        "event_id": uid(f"turn {name}"),
        "principal": principal_of(user),
        "message_id": uid(name),
        "context": (Message("user", asked or f"question of {name}"),),
        "answer": f"answer {name}",
        "finish": FinishReason.STOP,
        "model_version": "nano-0",
        "arm": "stable",
        "tenant": "acme",
        "conversation_id": uid(f"conversation {name}"),
        "finish_us": NOW_US - int(changes.pop("days", 1.0) * DAY_US),
    }
    return Turn(**values | changes)
