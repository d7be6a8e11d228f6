"""Conversion of conversations and messages to protobuf."""

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.guardrail.v1 import guardrail_pb2

from services.contracts.wire import (
    FINISH_REASON_NUMBERS,
    ROLE_NUMBERS,
    TASK_NUMBERS,
    edit_message,
    timestamp,
)
from services.session.message import Conversation, Message


def message_proto(message: Message) -> chat_pb2.Message:
    """Convert a message for the user."""
    return chat_pb2.Message(
        id=message.id,
        conversation_id=message.conversation_id,
        parent_id=message.parent_id,
        role=ROLE_NUMBERS[message.role],
        text=message.text,
        original_text="" if message.original_text == message.text else message.original_text,
        edits=map(edit_message, message.edits),
        model_version=message.model_version,
        arm=message.arm,
        finish_reason=FINISH_REASON_NUMBERS[message.finish_reason],
        create_time=timestamp(message.create_us),
        task=TASK_NUMBERS[message.task],
    )


def block_proto(message: Message) -> guardrail_pb2.Verdict | None:
    """Convert the verdict on a blocked answer; None for other messages."""
    if not message.guard_category:
        return None
    return guardrail_pb2.Verdict(
        action=guardrail_pb2.ACTION_BLOCK,
        category=message.guard_category,
        score=message.guard_score,
        policy_version=message.policy_version,
    )


def conversation_proto(conversation: Conversation) -> chat_pb2.Conversation:
    """Convert a conversation for the user."""
    return chat_pb2.Conversation(
        id=conversation.id,
        title=conversation.title,
        create_time=timestamp(conversation.create_us),
        update_time=timestamp(conversation.update_us),
    )
