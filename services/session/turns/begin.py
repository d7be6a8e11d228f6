"""Begin of a turn in one transaction: the user's message, an open answer, and the context."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from services.chassis.errors import AlreadyExistsError, NotFoundError
from services.chassis.identity import Caller
from services.contracts.limits import field_error
from services.session.conversation import title_of
from services.session.identifiers import IdGenerator
from services.session.limits import check_turn_request
from services.session.message import Message, StoredTurn, Turn, TurnRequest
from services.session.store.store import OwnedRows, Store
from services.session.turns.context import Budget, merge_roles, select_context
from services.session.turns.tokens import TokenCounter
from services.session.turns.tree import open_answer, plan_append


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
        ids: IdGenerator,
        rules: ContextRules,
        now_us: Callable[[], int],
    ) -> None:
        self._store = store
        self._counter = counter
        self._ids = ids
        self._rules = rules
        self._now_us = now_us

    async def begin(self, owner: Caller, request: TurnRequest) -> Turn:
        """Begin a turn, or return the turn that was begun with the same request id.

        Raises:
            InvalidArgumentError: a limit is exceeded, or the text does not fit the context.
            NotFoundError: conversation, parent or message is missing or belongs to another user.
            AlreadyExistsError: the request id was used with another payload.
        """
        check_turn_request(request)
        budget = self._rules.budget(request.reply_tokens)
        texts = [message.text for message in request.history]
        if request.user:
            texts.append(request.user.text)
        tokens = await self._counter.count(texts)
        # For conversation, history, question and answer. Drawn before the transaction, so that all
        # attempts use the same ids.
        ids = [self._ids.new_id() for _ in range(len(request.history) + 3)]
        attempts: list[Turn] = []

        def work(rows: OwnedRows) -> Turn:
            if not attempts or not _was_stored(rows, attempts[-1]):
                attempts.append(self._begin(rows, request, tokens, budget, iter(ids).__next__))
            return attempts[-1]

        return await self._store.write(owner, work)

    def _begin(
        self,
        rows: OwnedRows,
        request: TurnRequest,
        tokens: list[int],
        budget: Budget,
        new_id: Callable[[], str],
    ) -> Turn:
        digest = payload_sha256(request)
        if request.request_id and (stored := rows.turn(request.request_id)):
            return _replay(rows, stored, digest)
        now = self._now_us()
        plan = plan_append(rows, request, tokens, new_id, now)
        chosen = select_context(plan.branch, budget)
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
        return _turn(stored, chosen.messages)


def _was_stored(rows: OwnedRows, turn: Turn) -> bool:
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


def _replay(rows: OwnedRows, stored: StoredTurn, digest: str) -> Turn:
    if stored.payload_sha256 != digest:
        raise AlreadyExistsError(
            "request_id was used with another payload",
            field="request_id",
            limit="one payload for each request_id",
        )
    answer = rows.message(stored.assistant_message_id)
    messages = rows.messages_by_id(answer.context_ids)
    return replace(_turn(stored, tuple(messages)), replayed=True)


def _turn(stored: StoredTurn, messages: tuple[Message, ...]) -> Turn:
    return Turn(
        stored.conversation_id,
        stored.user_message_id,
        stored.assistant_message_id,
        merge_roles(messages),
        stored.context_tokens,
        stored.dropped_messages,
    )


def payload_sha256(request: TurnRequest) -> str:
    """Return the hash by which replays of a request are recognised.

    The enhanced text is excluded, because the enhancer may be unavailable during a retry.
    """
    payload = [
        request.conversation_id,
        request.parent_id,
        request.user.original_text if request.user else None,
        request.regenerate_id,
        [[message.role, message.text] for message in request.history],
        request.task,
        request.reply_tokens,
    ]
    return hashlib.sha256(json.dumps(payload).encode()).hexdigest()
