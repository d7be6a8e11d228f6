"""Users outside the cluster who retry failed calls as documented in the API."""

import http.client
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.infra.run.deploy.committed import Committed, committed
from tests.infra.run.deploy.deployed import Deployed, until
from tests.journeys.client import Client, finish_of, text_of
from tests.services.feedback.history import History

RETRY_SECONDS = 240
AGAIN_SECONDS = 0.5
READ_SECONDS = 0.3
DONE = ("FINISH_REASON_STOP", "FINISH_REASON_LENGTH")
Result = TypeVar("Result")


def new_id() -> str:
    return str(uuid.uuid4())


class RetryError(Exception):
    """The call must be repeated."""


@dataclass
class RetryingUser:
    """A user who chats and rates repeatedly.

    Answers by message and acknowledged events are recorded.
    """

    client: Client
    name: str
    answers: dict[str, str] = field(default_factory=dict)
    conversations: dict[str, str] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    repetitions: int = 0
    failed: list[str] = field(default_factory=list)

    def run(self, over: threading.Event) -> None:
        """Run until the end; failures are reported in the thread of the test."""
        try:
            while not over.is_set():
                self._turn(len(self.answers))
                over.wait(READ_SECONDS)
        except AssertionError as error:
            self.failed.append(str(error))

    def _turn(self, number: int) -> None:
        asked: dict[str, object] = {
            "input": {"text": f"Question {number} of {self.name}"},
            "requestId": new_id(),
        }
        events = self._with_retries(lambda: self._ask(asked))
        message = events[0]["messageId"]
        self.answers[message] = text_of(events)
        self.conversations[message] = events[0]["started"]["conversationId"]
        feedback = {"messageId": message, "requestId": new_id(), "thumb": {"up": number % 2 == 0}}
        self.events.append(self._with_retries(lambda: self._rate(feedback)))

    def _ask(self, asked: dict[str, object]) -> list[dict[str, Any]]:
        """Request an answer.

        A failed answer is final, so another answer is requested. An interrupted one is repeated
        under the same id.
        """
        events: list[dict[str, Any]] = []
        try:
            for event in self.client.events("POST", "/api/messages", asked):
                events.append(event)
        except AssertionError as error:
            if events:
                started = events[0]["started"]
                again = {"messageId": started["userMessageId"]}
                asked.clear()
                asked |= {
                    "conversationId": started["conversationId"],
                    "regenerate": again,
                    "requestId": new_id(),
                }
            raise RetryError(str(error)) from error
        if not events or "completed" not in events[-1] or finish_of(events) not in DONE:
            raise RetryError("the answer has not come to its end")
        return events

    def _rate(self, feedback: object) -> str:
        status, answer = self.client.call("POST", "/api/feedback", feedback)
        if status != 200:
            assert status in (429, 503, 504), answer
            raise RetryError(answer)
        return str(answer["eventId"])

    def _with_retries(self, ask: Callable[[], Result]) -> Result:
        end = time.monotonic() + RETRY_SECONDS
        while True:
            try:
                return ask()
            except (RetryError, OSError, http.client.HTTPException) as error:
                assert time.monotonic() < end, f"not for {RETRY_SECONDS} s: {error!r}"
            self.repetitions += 1
            time.sleep(AGAIN_SECONDS)


@contextmanager
def retrying_users(deployed: Deployed, number: int) -> Iterator[list[RetryingUser]]:
    """Run users until the end of the block, including their last requests."""
    keys = deployed.keys("person", count=number)
    people = [RetryingUser(deployed.person(key), f"person {at}") for at, key in enumerate(keys)]
    over = threading.Event()
    threads = [threading.Thread(target=person.run, args=(over,)) for person in people]
    for thread in threads:
        thread.start()
    try:
        yield people
    finally:
        over.set()
        for thread in threads:
            thread.join(RETRY_SECONDS)
    assert [person.failed for person in people] == [[]] * number


def wait_for_progress(people: list[RetryingUser]) -> None:
    """Wait until every user has received and rated another answer."""
    so_far = [len(person.events) for person in people]
    until(
        "everybody is answered again",
        lambda: all(
            len(person.events) > events for person, events in zip(people, so_far, strict=True)
        ),
    )


def check_invariants(
    deployed: Deployed,
    before: dict[str, Committed],
    people: list[RetryingUser],
    record_property: Any,
) -> None:
    settled(deployed, people)
    after = committed(deployed)
    acknowledged = {event for person in people for event in person.events}
    others = {
        f"before {number}": [str(row["event_id"])]
        for number, row in enumerate(before["feedback"].rows)
    }
    sent = {person.name: person.events for person in people}
    assert after["feedback"].violations(History(sent | others, acknowledged)) == []
    turns = Counter(str(row["message_id"]) for row in after["turns"].rows)
    answers = {message: text for person in people for message, text in person.answers.items()}
    assert {turns[message] for message in answers} == {1}, "each turn is in the bucket, once"
    for person in people:
        for message, conversation in person.conversations.items():
            stored = {
                one["id"]: one.get("text", "") for one in person.client.conversation(conversation)
            }
            assert stored[message] == person.answers[message], "what was shown is what is kept"
    report = deployed.audit()
    record_property("answers", len(answers))
    record_property("thumbs", len(acknowledged))
    record_property("repetitions", sum(person.repetitions for person in people))
    print(f"\nanswers {len(answers)}, thumbs {len(acknowledged)}, {report.splitlines()[-1]}")


def settled(deployed: Deployed, people: list[RetryingUser]) -> None:
    acknowledged = {event for person in people for event in person.events}
    answered = {message for person in people for message in person.answers}

    def all_there() -> bool:
        now = committed(deployed)
        there = {str(row["event_id"]) for row in now["feedback"].rows}
        turns = {str(row["message_id"]) for row in now["turns"].rows}
        return (
            now["feedback"].settled
            and now["turns"].settled
            and acknowledged <= there
            and answered <= turns
        )

    until("acknowledged data are in the bucket", all_there, 180)
