"""Rows to domain objects and back."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from services.chassis.identity import Caller
from services.session.message import Conversation, FinishReason, Message, Role, StoredTurn, Task, TextEdit


def message_from(row: Any) -> Message:
    """A message out of its row."""
    return Message(
        id=row.id,
        conversation_id=row.conversation_id,
        parent_id=row.parent_id,
        role=Role(row.role),
        text=row.text,
        position=row.position,
        tokens=row.tokens,
        create_us=row.create_us,
        task=Task(row.task),
        original_text=row.original_text,
        edits=tuple(TextEdit(**edit) for edit in json.loads(row.edits)) if row.edits else (),
        context_ids=tuple(row.context_ids.split()),
        model_version=row.model_version,
        arm=row.arm,
        finish_reason=FinishReason(row.finish_reason),
    )


def message_row(message: Message, owner: Caller) -> Mapping[str, object]:
    """The row of a message."""
    return {
        **vars(message),
        "tenant": owner.tenant,
        "user": owner.user,
        "edits": json.dumps([asdict(edit) for edit in message.edits]) if message.edits else "",
        "context_ids": " ".join(message.context_ids),
    }


def conversation_from(row: Any) -> Conversation:
    """A conversation out of its row."""
    return Conversation(row.id, row.title, row.create_us, row.update_us, row.next_position)


def conversation_row(conversation: Conversation, owner: Caller) -> Mapping[str, object]:
    """The row of a conversation."""
    return {**vars(conversation), "tenant": owner.tenant, "user": owner.user}


def stored_turn_from(row: Any) -> StoredTurn:
    """What was stored under a request id."""
    return StoredTurn(
        payload_sha256=row.payload_sha256,
        conversation_id=row.conversation_id,
        user_message_id=row.user_message_id,
        assistant_message_id=row.assistant_message_id,
        context_tokens=row.context_tokens,
        dropped_messages=row.dropped_messages,
    )
