"""Random operations on conversations of two users, compared with a reference model.

Pages have three messages. Some messages are changed to rows from before migration 0003.
"""

import asyncio
import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import update
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.session.v1 import session_pb2

from services.chassis.identity import Caller
from services.contracts.chat import FinishReason, Role
from services.contracts.wire import FINISH_REASON_NUMBERS, ROLE_NUMBERS
from services.session import tree
from services.session.__main__ import wiring
from services.session.store.tables import messages
from tests.services.session.service import Home, begin, finish, session_settings

TEXTS = st.text("abc", min_size=1, max_size=3)
USERS = st.sampled_from(["ada", "bob"])


@dataclass
class Node:
    id: str
    parent: str
    role: Role
    text: str
    finish: FinishReason


@dataclass
class Talk:
    owner: Caller
    id: str
    nodes: list[Node] = field(default_factory=list)

    def path(self, node_id: str) -> list[Node]:
        by_id = {node.id: node for node in self.nodes}
        found = []
        while node_id:
            found.append(by_id[node_id])
            node_id = found[-1].parent
        return found[::-1]


class Conversing(RuleBasedStateMachine):
    talks = Bundle("talks")

    def __init__(self, home: Home, tenant: str) -> None:
        super().__init__()
        self.tenant = tenant
        self.runner = asyncio.Runner()
        self.wired = wiring(session_settings(home, context_tokens=100_000))
        servicer: Any = self.runner.run(self.wired.__aenter__())[0].servicer
        self.beginner, self.finisher = servicer._beginner, servicer._finisher
        self.conversations, self.erasure = servicer._conversations, servicer._erasure
        self.database = self.beginner._store._database
        self.live: list[Talk] = []

    def teardown(self) -> None:
        self.runner.run(self.wired.__aexit__(None, None, None))
        self.runner.close()

    def begin(self, talk: Talk | None, owner: Caller, request: session_pb2.BeginTurnRequest) -> Any:
        turn = self.runner.run(self.beginner.begin(owner, request))
        assert turn.context[-1].role == chat_pb2.ROLE_USER
        return turn

    @rule(target=talks, user=USERS, text=TEXTS)
    def new(self, user: str, text: str) -> Talk:
        owner = Caller(self.tenant, user)
        turn = self.begin(None, owner, begin(text))
        talk = Talk(owner, turn.conversation_id)
        self._grown(talk, turn, "", text)
        self.live.append(talk)
        return talk

    @rule(target=talks, user=USERS, text=TEXTS, system=TEXTS, turns=st.integers(0, 2))
    def bring_along(self, user: str, text: str, system: str, turns: int) -> Talk:
        """Import a history with a system message; every later context contains the message."""
        owner = Caller(self.tenant, user)
        history = [
            (Role.SYSTEM, system),
            *[(Role.USER, "q"), (Role.ASSISTANT, "a")] * turns,
        ]
        messages = [
            chat_pb2.HistoryMessage(role=ROLE_NUMBERS[role], text=brought)
            for role, brought in history
        ]
        turn = self.begin(None, owner, begin(text, history=messages))
        talk = Talk(owner, turn.conversation_id)
        stored = self._stored_messages(talk)
        talk.nodes += [
            Node(m.id, m.parent_id, m.role, m.text, m.finish_reason) for m in stored[: len(history)]
        ]
        assert [(node.role, node.text) for node in talk.nodes] == history
        self._grown(talk, turn, talk.nodes[-1].id, text)
        self.live.append(talk)
        return talk

    @rule(talk=talks, pick=st.integers(0, 1000))
    def the_version_before_wrote_a_message(self, talk: Talk, pick: int) -> None:
        if talk not in self.live or not talk.nodes:
            return
        older = update(messages).where(messages.c.id == talk.nodes[pick % len(talk.nodes)].id)
        self.runner.run(
            self.database.write(lambda run: run.execute(older.values(depth=-1, pinned_ids="")))
        )

    @rule(talk=talks, text=TEXTS)
    def go_on(self, talk: Talk, text: str) -> None:
        if talk not in self.live:
            return
        request = begin(text, conversation_id=talk.id)
        parent = talk.nodes[-1].id if talk.nodes else ""
        self._grown(talk, self.begin(talk, talk.owner, request), parent, text)

    @rule(talk=talks, text=TEXTS, pick=st.integers(0, 1000))
    def branch_under_an_answer(self, talk: Talk, text: str, pick: int) -> None:
        answers = [node.id for node in talk.nodes if node.role is Role.ASSISTANT]
        if talk not in self.live or not answers:
            return
        parent = answers[pick % len(answers)]
        request = begin(text, conversation_id=talk.id, parent_message_id=parent)
        self._grown(talk, self.begin(talk, talk.owner, request), parent, text)

    @rule(talk=talks, text=TEXTS)
    def edit_the_first_message(self, talk: Talk, text: str) -> None:
        if talk not in self.live:
            return
        request = begin(text, conversation_id=talk.id, parent_message_id=talk.id)
        self._grown(talk, self.begin(talk, talk.owner, request), "", text)

    @rule(talk=talks, pick=st.integers(0, 1000))
    def regenerate(self, talk: Talk, pick: int) -> None:
        candidates = [node for node in talk.nodes if node.role is not Role.SYSTEM]
        if talk not in self.live or not candidates:
            return
        node = candidates[pick % len(candidates)]
        question = node.parent if node.role is Role.ASSISTANT else node.id
        turn = self.begin(talk, talk.owner, begin(regenerate_message_id=node.id))
        assert turn.user_message_id == question
        talk.nodes.append(
            Node(turn.assistant_message_id, question, Role.ASSISTANT, "", FinishReason.OPEN)
        )
        self._check_context(talk, turn)

    @rule(
        talk=talks,
        text=st.sampled_from(["", "x", "y z"]),
        reason=st.sampled_from(list(FinishReason)[1:]),
    )
    def finish_an_open_answer(self, talk: Talk, text: str, reason: FinishReason) -> None:
        open_answers = [
            n for n in talk.nodes if n.role is Role.ASSISTANT and n.finish is FinishReason.OPEN
        ]
        if talk not in self.live or not open_answers:
            return
        node = open_answers[0]
        self.runner.run(
            self.finisher.finish(
                talk.owner, finish(node.id, text, finish_reason=FINISH_REASON_NUMBERS[reason])
            )
        )
        node.text, node.finish = text, reason

    @rule(talk=talks)
    def clear(self, talk: Talk) -> None:
        if talk in self.live:
            self.runner.run(self.erasure.clear(talk.owner, talk.id))
            talk.nodes.clear()

    @rule(talk=talks)
    def delete(self, talk: Talk) -> None:
        if talk in self.live:
            self.runner.run(self.erasure.delete(talk.owner, talk.id))
            self.live.remove(talk)

    @rule(user=USERS)
    def erase_the_user(self, user: str) -> None:
        owned = [talk for talk in self.live if talk.owner.user == user]
        assert self.runner.run(self.erasure.erase_user(Caller(self.tenant, user))) == len(owned)
        self.live = [talk for talk in self.live if talk not in owned]

    @invariant()
    def what_is_stored_equals_the_model(self) -> None:
        for owner in (Caller(self.tenant, "ada"), Caller(self.tenant, "bob")):
            page = self.runner.run(self.conversations.page(owner, 100, ""))
            assert {stored.id for stored in page.conversations} == {
                t.id for t in self.live if t.owner == owner
            }
        for talk in self.live:
            stored = [
                Node(m.id, m.parent_id, m.role, m.text, m.finish_reason)
                for m in self._stored_messages(talk)
            ]
            assert stored == talk.nodes

    def _grown(self, talk: Talk, turn: Any, parent: str, text: str) -> None:
        talk.nodes.append(Node(turn.user_message_id, parent, Role.USER, text, FinishReason.OPEN))
        answer = Node(
            turn.assistant_message_id, turn.user_message_id, Role.ASSISTANT, "", FinishReason.OPEN
        )
        talk.nodes.append(answer)
        self._check_context(talk, turn)

    def _check_context(self, talk: Talk, turn: Any) -> None:
        """Compare the context with the path: system messages, then complete turns in order."""
        path = talk.path(turn.user_message_id)
        expected = [node.text for node in path if node.role is Role.SYSTEM]
        path = [node for node in path if node.role is not Role.SYSTEM]
        for question, answer in zip(path[:-1:2], path[1::2], strict=True):
            if answer.text and answer.finish is not FinishReason.INPUT_BLOCKED:
                expected += [question.text, answer.text]
        assert [message.text for message in turn.context] == [*expected, path[-1].text]
        assert turn.dropped_messages == 0
        page = self.runner.run(self.conversations.conversation(talk.owner, talk.id))
        assert page.conversation.title == path[0].text

    def _stored_messages(self, talk: Talk) -> list[Any]:
        """Return all messages of a conversation, oldest first, read in pages."""
        found: list[Any] = []
        token = ""
        while True:
            page = self.runner.run(self.conversations.conversation(talk.owner, talk.id, 100, token))
            found = [*page.messages, *found]
            if not (token := page.next_token):
                return found


def test_stored_conversations_equal_a_reference_model(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "PAGE", 3)
    tenants = (f"tenant-{number}" for number in itertools.count())
    bounds = settings(max_examples=12, stateful_step_count=20, derandomize=True)
    run_state_machine_as_test(lambda: Conversing(home, next(tenants)), settings=bounds)
