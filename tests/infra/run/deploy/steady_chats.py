"""Chats at a constant rate, whose failures are counted and not retried."""

import http.client
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.infra.run.deploy.deployed import until
from tests.journeys.client import Client, finish_of, text_of

DONE = ("FINISH_REASON_STOP", "FINISH_REASON_LENGTH")
# More than the chats that begin while one is answered.
RUNNING_MOST = 60


@dataclass
class SteadyChats:
    """Chats of several users in turn, because a user may have only a few at once.

    Args:
        answers: number of complete answers.
        failed: failures with their times in seconds from the first chat.
        longest: duration of the longest complete chat in seconds.
    """

    clients: Sequence[Client]
    answers: int = 0
    failed: list[str] = field(default_factory=list)
    longest: float = 0.0
    _began: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, number: int) -> None:
        """Ask a question and count its answer or its failure."""
        began, failure = time.monotonic(), ""
        try:
            client = self.clients[number % len(self.clients)]
            events = client.ask(f"Question {number} of the steady chats")
            if not text_of(events) or finish_of(events) not in DONE:
                failure = f"incomplete: {events[-1]}"
        except (AssertionError, OSError, http.client.HTTPException, LookupError) as error:
            failure = repr(error)[:300]
        with self._lock:
            if failure:
                self.failed.append(f"{began - self._began:.1f}s {failure}")
            else:
                self.answers += 1
                self.longest = max(self.longest, time.monotonic() - began)

    def wait_for_answers(self, more: int = 5) -> None:
        """Wait until so many further chats were answered."""
        wanted = self.answers + more
        until(f"{more} more answers; failed: {self.failed[-3:]}", lambda: self.answers >= wanted)


@contextmanager
def steady_chats(clients: Sequence[Client], every_seconds: float) -> Iterator[SteadyChats]:
    """Begin a chat at every interval until the end of the block, however long an answer takes.

    All chats have ended after the block.
    """
    chats, over = SteadyChats(clients), threading.Event()

    def begin_all(pool: ThreadPoolExecutor) -> None:
        began, number = time.monotonic(), 0
        while not over.wait(max(began + number * every_seconds - time.monotonic(), 0)):
            pool.submit(chats.ask, number)
            number += 1

    with ThreadPoolExecutor(RUNNING_MOST) as pool:
        clock = threading.Thread(target=begin_all, args=(pool,))
        clock.start()
        try:
            yield chats
        finally:
            over.set()
            clock.join()
