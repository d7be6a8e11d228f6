"""Conversion of database rows to domain objects and back.

A turn reads dozens of earlier messages, hence the conversion is written for speed.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from services.chassis.identity import Caller
from services.contracts.chat import FinishReason, Role, Task, TextEdit
from services.session.message import Conversation, Message, StoredTurn

# A dict look-up takes a tenth of the time of an enum call.
_ROLES = {role.value: role for role in Role}
_TASKS = {task.value: task for task in Task}
_FINISHES = {finish.value: finish for finish in FinishReason}


def message_from(row: Any) -> Message:
    """Create a message from a row with the columns `statements.MESSAGE_COLUMNS`."""
    original_text, edits, context_ids, model_version, arm = row[-5:]
    return replace(
        context_message_from(row[:-5]),
        original_text=original_text,
        edits=tuple(TextEdit(**edit) for edit in json.loads(edits)) if edits else (),
        context_ids=tuple(context_ids.split()) if context_ids else (),
        model_version=model_version,
        arm=arm,
    )


def context_message_from(row: Any) -> Message:
    """Create a message from a row with the columns `statements.CONTEXT_COLUMNS`.

    These columns suffice for the selection of a context.
    """
    (
        message_id,
        conversation_id,
        text,
        position,
        tokens,
        create_us,
        role,
        task,
        finish_reason,
        parent_id,
        depth,
        pinned_ids,
    ) = row
    return Message(
        message_id,
        conversation_id,
        text,
        position,
        tokens,
        create_us,
        _ROLES[role],
        _TASKS[task],
        _FINISHES[finish_reason],
        parent_id,
        depth,
        tuple(pinned_ids.split()) if pinned_ids else (),
    )


def message_row(message: Message, owner: Caller) -> Mapping[str, object]:
    """Return the column values of a message."""
    return {
        **vars(message),
        "tenant": owner.tenant,
        "user": owner.user,
        "edits": json.dumps([asdict(edit) for edit in message.edits]) if message.edits else "",
        "pinned_ids": " ".join(message.pinned_ids),
        "context_ids": " ".join(message.context_ids),
    }


def conversation_from(row: Any) -> Conversation:
    """Create a conversation from its row."""
    return Conversation(row.id, row.title, row.create_us, row.update_us, row.next_position)


def conversation_row(conversation: Conversation, owner: Caller) -> Mapping[str, object]:
    """Return the column values of a conversation."""
    return {**vars(conversation), "tenant": owner.tenant, "user": owner.user}


def stored_turn_from(row: Any) -> StoredTurn:
    """Create a stored turn from its row."""
    return StoredTurn(
        payload_sha256=row.payload_sha256,
        conversation_id=row.conversation_id,
        user_message_id=row.user_message_id,
        assistant_message_id=row.assistant_message_id,
        context_tokens=row.context_tokens,
        dropped_messages=row.dropped_messages,
    )
