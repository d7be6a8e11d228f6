"""The start of a turn, in one transaction: the user's message, an open answer, and the context for
the model.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace

from services.chassis.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from services.chassis.identity import Caller
from services.session.context import Budget, as_said, select_context
from services.session.conversation import TokenCounts, title_of
from services.session.identifiers import IdMint
from services.session.limits import check_turn_request
from services.session.message import Message, StoredTurn, Turn, TurnRequest
from services.session.store import OwnedRows, Store
from services.session.tree import grow, open_answer


@dataclass(frozen=True)
class ContextRules:
    """The model's window, the usual room for an answer, and what the chat template adds once and to
    each message, in tokens.
    """

    window_tokens: int
    reply_tokens: int
    template_tokens: int
    message_overhead_tokens: int

    def budget(self, reply_tokens: int) -> Budget:
        """What is left for the context. Raises: InvalidArgumentError if the answer takes the whole
        window.
        """
        reply = reply_tokens or self.reply_tokens
        most = self.window_tokens - self.template_tokens
        if reply >= most:
            limit = f"fewer than {most} tokens"
            raise InvalidArgumentError(
                f"reply_tokens must be {limit}", field="reply_tokens", limit=limit
            )
        return Budget(most - reply, self.message_overhead_tokens)


class TurnBeginner:
    """Begins turns."""

    def __init__(
        self,
        store: Store,
        counter: TokenCounts,
        mint: IdMint,
        rules: ContextRules,
        now_us: Callable[[], int],
    ) -> None:
        self._store = store
        self._counter = counter
        self._mint = mint
        self._rules = rules
        self._now_us = now_us

    async def begin(self, owner: Caller, request: TurnRequest) -> Turn:
        """Begin a turn, or return the one that was begun under the same request id.

        Raises:
            InvalidArgumentError: a limit of the request, or the text does not fit the context.
            NotFoundError: conversation, parent or message is missing or another user's.
            AlreadyExistsError: the request id was used with another payload.
        """
        check_turn_request(request)
        budget = self._rules.budget(request.reply_tokens)
        texts = [said.text for said in request.history] + (
            [request.user.text] if request.user else []
        )
        tokens = await self._counter.count(texts)
        # Conversation, history, question, answer: minted before, so that work that runs again
        # stores under the same ids.
        ids = [self._mint.mint() for _ in range(len(request.history) + 3)]
        ran: list[Turn] = []

        def work(rows: OwnedRows) -> Turn:
            if not ran or not _was_stored(rows, ran[-1]):
                ran.append(self._begin(rows, request, tokens, budget, iter(ids).__next__))
            return ran[-1]

        return await self._store.write(owner, work)

    def _begin(
        self,
        rows: OwnedRows,
        request: TurnRequest,
        tokens: list[int],
        budget: Budget,
        mint: Callable[[], str],
    ) -> Turn:
        digest = payload_sha256(request)
        if request.request_id and (stored := rows.turn(request.request_id)):
            return _replay(rows, stored, digest)
        now = self._now_us()
        growth = grow(rows, request, tokens, mint, now)
        chosen = select_context(growth.branch, budget)
        conversation = growth.conversation
        answer = open_answer(growth, request, chosen.messages, mint, now)
        rows.add_messages([*growth.new, answer])
        # Of the branch that is on the screen: an edit of the first message renames, and so does
        # going on beside it.
        title = title_of(growth.branch.pinned) or conversation.title
        rows.replace_conversation(
            replace(conversation, title=title, update_us=now, next_position=answer.position + 1)
        )
        stored = StoredTurn(
            digest, conversation.id, growth.branch.leaf_id, answer.id, chosen.tokens, chosen.dropped
        )
        if request.request_id:
            rows.add_turn(request.request_id, stored)
        return _turn(stored, chosen.messages)


def _was_stored(rows: OwnedRows, turn: Turn) -> bool:
    """Whether the run before was stored after all, and only the answer to its commit lost.

    Its commit may still be under way: then the lock waits for it, or, for a new conversation, its
    id collides and this runs once more.
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
        as_said(messages),
        stored.context_tokens,
        stored.dropped_messages,
    )


def payload_sha256(request: TurnRequest) -> str:
    """What makes two requests the same. The enhanced text is left out: a retry may find the
    enhancer away.
    """
    payload = [
        request.conversation_id,
        request.parent_id,
        request.user.original_text if request.user else None,
        request.regenerate_id,
        [[said.role, said.text] for said in request.history],
        request.task,
        request.reply_tokens,
    ]
    return hashlib.sha256(json.dumps(payload).encode()).hexdigest()
