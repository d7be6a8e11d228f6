"""Client of the session service: turns and stored messages of the current caller."""

from dataclasses import replace

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.session.v1 import session_pb2, session_pb2_grpc

from services.chassis.channel import call_unary
from services.chassis.identity import request_id_from
from services.contracts.chat import FinishReason, Prompt
from services.contracts.wire import (
    FINISH_REASON_NUMBERS,
    FINISH_REASONS,
    ROLES,
    TASK_NUMBERS,
    TASKS,
    edit_message,
    history_message,
    prompt_from,
    sample_message,
    usage_message,
)
from services.gateway.answering.sessions import Answer, StartedTurn, StoredAnswer
from services.gateway.feedback.submission import RatedMessage
from services.gateway.turns.request import Regenerate, TurnRequest

PEER = "session"


class SessionPeer:
    """Implements `sessions.Sessions`, `feedback.RatedMessages` and `own_data.OwnConversations`."""

    def __init__(self, stub: session_pb2_grpc.SessionServiceStub, within_seconds: float) -> None:
        self._stub, self._within_seconds = stub, within_seconds

    async def begin_turn(self, request: TurnRequest, prompt: Prompt) -> StartedTurn:
        """Implement the method `Sessions.begin_turn`."""
        message = session_pb2.BeginTurnRequest(
            conversation_id=request.conversation_id,
            parent_message_id=request.parent_message_id,
            # Without an id from the client, retries of the channel would begin a second turn.
            request_id=request.request_id or request_id_from(""),
            task=TASK_NUMBERS[request.task],
            reply_tokens=request.sampling.max_tokens or 0,
        )
        match request.action:
            case Regenerate(message_id):
                message.regenerate_message_id = message_id
            case Prompt():
                message.user.original_text, message.user.text = prompt.original_text, prompt.text
                message.user.edits.extend(map(edit_message, prompt.edits))
                message.history.extend(map(history_message, request.history))
        response = await call_unary(
            PEER, self._stub.BeginTurn, message, within_seconds=self._within_seconds
        )
        return StartedTurn(
            response.conversation_id,
            response.user_message_id,
            response.assistant_message_id,
            response.context,
            response.replayed,
        )

    async def finish_turn(self, answer: Answer) -> None:
        """Implement the method `Sessions.finish_turn`."""
        message = session_pb2.FinishTurnRequest(
            assistant_message_id=answer.message_id,
            text=answer.text,
            finish_reason=FINISH_REASON_NUMBERS[answer.finish_reason],
            policy_version=answer.policy_version,
            guard_category=answer.guard_category,
            usage=usage_message(answer.usage) if answer.usage else None,
            sample=sample_message(answer.sample),
        )
        if chosen := answer.selected:
            message.model_version, message.arm = chosen.model_version, chosen.arm
            message.assignment_probability = chosen.assignment_probability
            message.temperature, message.top_p = chosen.temperature, chosen.top_p
        await call_unary(PEER, self._stub.FinishTurn, message, within_seconds=self._within_seconds)

    async def stored_prompt(self, message_id: str) -> Prompt:
        """Implement the method `Sessions.stored_prompt`."""
        message = await self.message(message_id)
        if message.role == chat_pb2.ROLE_ASSISTANT:
            message = await self.message(message.parent_id)
        prompt = prompt_from(message)
        return replace(prompt, original_text=prompt.original_text or prompt.text)

    async def finished_answer(self, message_id: str) -> StoredAnswer | None:
        """Implement the method `Sessions.finished_answer`."""
        message = await self.message(message_id)
        reason = _finish_reason(message)
        if reason is FinishReason.OPEN:
            return None
        return StoredAnswer(
            message.text,
            reason,
            message.model_version,
            message.arm,
            TASKS[message.task],
        )

    async def rated_message(self, message_id: str) -> RatedMessage:
        """Implement the method `RatedMessages.rated_message`."""
        message = await self.message(message_id)
        return RatedMessage(
            message.conversation_id,
            ROLES[message.role],
            message.model_version,
            message.arm,
            _finish_reason(message) is not FinishReason.OPEN,
        )

    async def erase_user(self) -> int:
        """Implement the method `OwnConversations.erase_user`."""
        request = session_pb2.EraseUserRequest()
        response = await call_unary(
            PEER, self._stub.EraseUser, request, within_seconds=self._within_seconds
        )
        return int(response.removed_conversations)

    async def message(self, message_id: str) -> chat_pb2.Message:
        """Return a message of the caller.

        Raises:
            NotFoundError: The message is unknown or belongs to another user.
        """
        request = session_pb2.GetMessageRequest(message_id=message_id)
        response = await call_unary(
            PEER, self._stub.GetMessage, request, within_seconds=self._within_seconds
        )
        found: chat_pb2.Message = response.message
        return found


def _finish_reason(message: chat_pb2.Message) -> FinishReason:
    # An answer with an unknown reason counts as open.
    return FINISH_REASONS.get(message.finish_reason, FinishReason.OPEN)
