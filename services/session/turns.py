"""Begin and end of a turn, each in one transaction.

The begin stores the user's message, an open answer and the context. The end stores the answer, and
its turn record in the outbox. The checks apply the limits in the proto; each error names field and
limit. Texts with U+0000 are refused, because Postgres cannot store the character.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.session.v1 import session_pb2
from uuid_utils import uuid7

from services.chassis.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from services.chassis.identity import Caller
from services.contracts.chat import Arm, FinishReason, Role, Task
from services.contracts.limits import (
    MAX_EDITS,
    MAX_HISTORY,
    MAX_NAME_CHARACTERS,
    MAX_REQUEST_CHARACTERS,
    MAX_REQUEST_ID_CHARACTERS,
    MAX_TEXT_CHARACTERS,
    check_sample,
    check_uuid,
    field_error,
)
from services.contracts.wire import FINISH_REASONS, ROLE_NUMBERS, ROLES, TASKS, sample_from
from services.session.context import Budget, TokenCounter, merge_roles, select_context
from services.session.conversations import ConversationLimits
from services.session.message import Message, StoredTurn
from services.session.relay import TurnRecorder, is_published
from services.session.store.store import OwnedRows, Store
from services.session.tree import AppendPlan, open_answer, plan_append

MAX_TITLE_CHARACTERS = 80

NumberT = TypeVar("NumberT")
NameT = TypeVar("NameT")


@dataclass(frozen=True)
class ContextRules:
    """Sizes from which the token budget of a context follows, all in tokens.

    Args:
        window_tokens: context and answer together.
        reply_tokens: default reservation for the answer.
        template_tokens: added once by the chat template.
        message_overhead_tokens: added to each message by the chat template.
    """

    window_tokens: int
    reply_tokens: int
    template_tokens: int
    message_overhead_tokens: int

    def budget(self, reply_tokens: int) -> Budget:
        """Return the budget of the context; `reply_tokens` 0 selects the default reservation.

        Raises:
            InvalidArgumentError: the answer would fill the whole window.
        """
        reply = reply_tokens or self.reply_tokens
        most = self.window_tokens - self.template_tokens
        if reply >= most:
            raise field_error("reply_tokens", f"fewer than {most} tokens")
        return Budget(most - reply, self.message_overhead_tokens)


class TurnBeginner:
    """Domain logic of BeginTurn, replays included."""

    def __init__(
        self,
        store: Store,
        counter: TokenCounter,
        rules: ContextRules,
        limits: ConversationLimits,
        now_us: Callable[[], int],
    ) -> None:
        self._store = store
        self._counter = counter
        self._rules = rules
        self._limits = limits
        self._now_us = now_us

    async def begin(
        self, owner: Caller, request: session_pb2.BeginTurnRequest
    ) -> session_pb2.BeginTurnResponse:
        """Begin a turn, or return the earlier turn with the same request id.

        Raises:
            InvalidArgumentError: a limit is exceeded.
            ContextLengthError: the messages do not fit the context.
            NotFoundError: conversation, parent or message is missing or belongs to another user.
            AlreadyExistsError: the request id was used with another payload.
            ConversationLimitError: the user or the tenant has too many conversations.
        """
        check_turn_request(request)
        budget = self._rules.budget(request.reply_tokens)
        texts = [message.text for message in request.history]
        if request.HasField("user"):
            texts.append(request.user.text)
        tokens = await self._counter.count(texts)
        # For conversation, history, question and answer. Drawn before the transaction, so that all
        # attempts use the same ids. UUIDv7 (RFC 9562 §5.7) increase within the process, also within
        # a millisecond and after a step back of the clock.
        ids = [str(uuid7()) for _ in range(len(request.history) + 3)]
        attempts: list[session_pb2.BeginTurnResponse] = []

        def work(rows: OwnedRows) -> session_pb2.BeginTurnResponse:
            if not attempts or not _was_stored(rows, attempts[-1]):
                attempts.append(self._begin(rows, request, tokens, budget, iter(ids).__next__))
            return attempts[-1]

        return await self._store.write(owner, work)

    def _begin(
        self,
        rows: OwnedRows,
        request: session_pb2.BeginTurnRequest,
        tokens: list[int],
        budget: Budget,
        new_id: Callable[[], str],
    ) -> session_pb2.BeginTurnResponse:
        digest = payload_sha256(request)
        if request.request_id and (stored := rows.turn(request.request_id)):
            if stored.payload_sha256 != digest:
                raise AlreadyExistsError(
                    "request_id was used with another payload",
                    field="request_id",
                    limit="one payload for each request_id",
                )
            replayed = rows.message(stored.assistant_message_id)
            return _response(stored, rows.messages_by_id(replayed.context_ids), replayed=True)
        now = self._now_us()
        is_new = request.HasField("user") and not request.conversation_id
        if is_new and not request.client_keeps_conversation:
            self._limits.check_room(rows)
        plan = plan_append(rows, request, tokens, new_id, now)
        chosen = select_context(plan.branch, budget, _fields_of_messages(request, plan))
        conversation = plan.conversation
        answer = open_answer(plan, request, chosen.messages, new_id, now)
        rows.add_messages([*plan.new_messages, answer])
        # The title follows the branch on the screen: an edit of the first message changes the
        # title, and so does the continuation of another branch.
        title = title_of(plan.branch.pinned) or conversation.title
        rows.replace_conversation(
            replace(conversation, title=title, update_us=now, next_position=answer.position + 1)
        )
        stored = StoredTurn(
            digest, conversation.id, plan.branch.leaf_id, answer.id, chosen.tokens, chosen.dropped
        )
        if request.request_id:
            rows.add_turn(request.request_id, stored)
        return _response(stored, chosen.messages)


def _fields_of_messages(
    request: session_pb2.BeginTurnRequest, plan: AppendPlan
) -> Mapping[str, str]:
    """Return the field of the request for each message of the plan that it brings, by id."""
    if not request.HasField("user"):
        return {plan.branch.leaf_id: "regenerate_message_id"}
    # Messages without text are not stored.
    names = [f"history[{n}].text" for n, message in enumerate(request.history) if message.text]
    ids = (message.id for message in plan.new_messages)
    return dict(zip(ids, [*names, "user.text"], strict=True))


def _was_stored(rows: OwnedRows, turn: session_pb2.BeginTurnResponse) -> bool:
    """Return True if an earlier attempt was committed and only the answer to its commit was lost.

    If the commit is still running, the lock waits for its end. In a new conversation there is no
    row to lock; the ids then collide and the work runs again.
    """
    try:
        rows.conversation(turn.conversation_id, lock=True)
        rows.message(turn.assistant_message_id)
    except NotFoundError:
        return False
    return True


def _response(
    stored: StoredTurn, context: Sequence[Message], *, replayed: bool = False
) -> session_pb2.BeginTurnResponse:
    return session_pb2.BeginTurnResponse(
        conversation_id=stored.conversation_id,
        user_message_id=stored.user_message_id,
        assistant_message_id=stored.assistant_message_id,
        context=[
            session_pb2.ContextMessage(role=ROLE_NUMBERS[message.role], text=message.text)
            for message in merge_roles(context)
        ],
        context_tokens=stored.context_tokens,
        dropped_messages=stored.dropped_messages,
        replayed=replayed,
    )


def title_of(messages: Sequence[Message]) -> str:
    """Return the first words of the first user message, at most MAX_TITLE_CHARACTERS.

    The text is cut between words; a single long word is cut inside.
    """
    texts = [
        message.text for message in messages if message.role is Role.USER and message.text.strip()
    ]
    words = " ".join(texts[0].split()) if texts else ""
    if len(words) <= MAX_TITLE_CHARACTERS:
        return words
    return words[: MAX_TITLE_CHARACTERS + 1].rsplit(" ", 1)[0][:MAX_TITLE_CHARACTERS]


def payload_sha256(request: session_pb2.BeginTurnRequest) -> str:
    """Return the hash by which replays of a request are recognised.

    The enhanced text is excluded, because the enhancer may be unavailable during a retry.
    """
    payload = [
        request.conversation_id,
        request.parent_message_id,
        request.user.original_text if request.HasField("user") else None,
        request.regenerate_message_id,
        [[ROLES[message.role], message.text] for message in request.history],
        TASKS[request.task],
        request.reply_tokens,
    ]
    return hashlib.sha256(json.dumps(payload).encode()).hexdigest()


class TurnFinisher:
    """Domain logic of FinishTurn; `wake` notifies the relay of a new record in the outbox."""

    def __init__(
        self,
        store: Store,
        counter: TokenCounter,
        recorder: TurnRecorder,
        now_us: Callable[[], int],
        wake: Callable[[], None],
    ) -> None:
        self._store = store
        self._counter = counter
        self._recorder = recorder
        self._now_us = now_us
        self._wake = wake

    async def finish(self, owner: Caller, answer: session_pb2.FinishTurnRequest) -> None:
        """Store the answer; a repetition with the same text changes nothing.

        Raises:
            InvalidArgumentError: a value is out of range, or the message is not an answer.
            NotFoundError: the message is missing or belongs to another user.
            FailedPreconditionError: the answer was finished with another text.
        """
        check_answer(answer)
        # A model may write U+0000, which Postgres cannot store. The answer must not be lost.
        answer.text = answer.text.replace("\0", "\ufffd")
        (tokens,) = await self._counter.count([answer.text])
        await self._store.write(owner, lambda rows: self._finish(rows, owner, answer, tokens))
        self._wake()

    def _finish(
        self, rows: OwnedRows, owner: Caller, answer: session_pb2.FinishTurnRequest, tokens: int
    ) -> None:
        # Lock the conversation, so that one of two concurrent calls sees the answer of the other.
        rows.conversation_of_message(answer.assistant_message_id)
        message = rows.message(answer.assistant_message_id)
        if message.role is not Role.ASSISTANT:
            raise field_error("assistant_message_id", "an answer")
        if message.finish_reason is not FinishReason.OPEN:
            if message.text != answer.text:
                raise FailedPreconditionError(
                    "the answer was finished with another text",
                    reason="ALREADY_FINISHED",
                    field="text",
                )
            return
        now = self._now_us()
        finished = replace(
            message,
            text=answer.text,
            tokens=tokens,
            model_version=answer.model_version,
            arm=answer.arm,
            finish_reason=FINISH_REASONS[answer.finish_reason],
        )
        if message.task is Task.UNSPECIFIED:
            # A task that only later releases know must not lose the answer.
            finished = replace(finished, task=TASKS.get(answer.task, Task.UNSPECIFIED))
        if finished.finish_reason.is_blocked:
            finished = finished.with_verdict(
                answer.guard_category, answer.guard_score, answer.policy_version
            )
        rows.replace_answer(finished, now)
        if is_published(finished):
            # The last message of the context is the user's message of this turn.
            context = rows.messages_by_id(message.context_ids)
            record = self._recorder.finished(owner, context[-1], finished, answer, context, now)
            rows.enqueue([(message.conversation_id, record)])


def check_turn_request(request: session_pb2.BeginTurnRequest) -> None:
    """Check a request to begin a turn.

    Raises:
        InvalidArgumentError: a value is unknown or out of its limits; with field and limit.
    """
    # Before anything that takes time for each item.
    if len(request.history) > MAX_HISTORY:
        raise field_error("history", f"at most {MAX_HISTORY} messages", f"{len(request.history):,}")
    if len(request.user.edits) > MAX_EDITS:
        raise field_error("user.edits", f"at most {MAX_EDITS:,}", f"{len(request.user.edits):,}")
    for number, entry in enumerate(request.history):
        _check_known(ROLES, entry.role, f"history[{number}].role")
    _check_known(TASKS, request.task, "task")
    check_uuid(request.conversation_id, "conversation_id", optional=True)
    check_uuid(request.parent_message_id, "parent_message_id", optional=True)
    if len(request.request_id) > MAX_REQUEST_ID_CHARACTERS:
        raise field_error("request_id", f"at most {MAX_REQUEST_ID_CHARACTERS} characters")
    _check_storable("request_id", request.request_id)
    if request.HasField("user"):
        texts = {"original_text": request.user.original_text, "text": request.user.text}
        for name, text in texts.items():
            if not 1 <= len(text) <= MAX_TEXT_CHARACTERS:
                raise field_error(f"user.{name}", f"1 to {MAX_TEXT_CHARACTERS:,} characters")
            _check_storable(f"user.{name}", text)
    elif request.regenerate_message_id:
        check_uuid(request.regenerate_message_id, "regenerate_message_id")
        if request.parent_message_id:
            raise field_error("parent_message_id", "empty with regenerate_message_id")
    else:
        raise field_error("action", "user or regenerate_message_id")
    _check_history(request)


def check_answer(answer: session_pb2.FinishTurnRequest) -> None:
    """Check the answer of a finished turn.

    Raises:
        InvalidArgumentError: a value is unknown or out of its limits; with field and limit.
    """
    _check_known(FINISH_REASONS, answer.finish_reason, "finish_reason")
    check_uuid(answer.assistant_message_id, "assistant_message_id")
    if FINISH_REASONS[answer.finish_reason] is FinishReason.OPEN:
        raise field_error("finish_reason", "set")
    if answer.arm and answer.arm not in list(Arm):
        raise field_error("arm", " or ".join(f'"{arm}"' for arm in Arm))
    for name in ("model_version", "policy_version", "guard_category"):
        if len(getattr(answer, name)) > MAX_NAME_CHARACTERS:
            raise field_error(name, f"at most {MAX_NAME_CHARACTERS} characters")
        _check_storable(name, getattr(answer, name))
    for name in ("assignment_probability", "guard_score", "temperature", "top_p"):
        most = 2 if name == "temperature" else 1
        if not 0 <= getattr(answer, name) <= most:
            raise field_error(name, f"0 to {most}")
    if sample := sample_from(answer):
        check_sample(sample, "sample")


def _check_history(request: session_pb2.BeginTurnRequest) -> None:
    if not request.history:
        return
    if request.conversation_id or not request.HasField("user"):
        raise field_error("history", "empty, except for a new conversation")
    characters = sum(len(message.text) for message in request.history)
    if characters > MAX_REQUEST_CHARACTERS:
        raise field_error(
            "history", f"at most {MAX_REQUEST_CHARACTERS:,} characters in all texts together"
        )
    for number, message in enumerate(request.history):
        if len(message.text) > MAX_TEXT_CHARACTERS:
            raise field_error(
                f"history[{number}].text", f"at most {MAX_TEXT_CHARACTERS:,} characters"
            )
        _check_storable(f"history[{number}].text", message.text)
    # System messages are merged with a separator of two characters.
    system = [message.text for message in request.history if message.role == chat_pb2.ROLE_SYSTEM]
    if sum(len(text) + 2 for text in system) - 2 > MAX_TEXT_CHARACTERS:
        raise field_error(
            "history", f"at most {MAX_TEXT_CHARACTERS:,} characters in all system messages together"
        )


def _check_storable(field: str, text: str) -> None:
    if "\0" in text:
        raise field_error(field, "without U+0000")


def _check_known(table: Mapping[NumberT, NameT], number: NumberT, field: str) -> None:
    if number not in table:
        raise field_error(field, f"one of {', '.join(map(str, table.values()))}")
