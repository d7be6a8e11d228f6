"""Judges: orders of answers, replies of another form, and endpoints that fail."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.errors import refused
from tests.training.simulated_users import liking
from training.data.chat import Message
from training.errors import ConfigError, UnavailableError
from training.evaluation.comparison import win_rate
from training.evaluation.judges import (
    KEY,
    MODEL,
    URL,
    Contest,
    EndpointJudge,
    both_orders,
    judge_from,
    read_verdict,
)

QUESTION = (Message("user", "What is the opposite of hot?"),)
CONTESTS = [
    Contest(QUESTION, "Good question! The opposite of hot is cold.", "Cold."),
    Contest(QUESTION, "Look it up yourself.", "Cold."),
    Contest(QUESTION, "Cold.", "Cold."),
]


@contextmanager
def endpoint(reply: Callable[[str], str | int]) -> Iterator[tuple[str, list[dict[str, object]]]]:
    """Serve chat completions: `reply` maps the prompt to the text, or to a status."""
    seen: list[dict[str, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({**body, "key": self.headers["Authorization"], "path": self.path})
            found = reply(body["messages"][0]["content"])
            self.send_response(found if isinstance(found, int) else 200)
            self.end_headers()
            if isinstance(found, str):
                answer = {"choices": [{"message": {"content": found}}]}
                self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        server.server_close()


def answers_of(prompt: str) -> tuple[str, str]:
    """Return both answers in a prompt of the judge."""
    first, second = (prompt.split(f"<answer {name}>\n")[1] for name in "AB")
    return first.split("\n</answer")[0], second.split("\n</answer")[0]


def honest(prompt: str) -> str:
    first, second = (liking(QUESTION[0].content, answer) for answer in answers_of(prompt))
    return "tie" if first == second else "A" if first > second else "B."


def test_endpoint_sees_both_orders() -> None:
    with endpoint(honest) as (url, seen):
        judge = EndpointJudge(url, "judge-1", "secret")
        assert judge.wins(CONTESTS) == [1.0, 0.0, 0.5]
    assert len(seen) == 2 * len(CONTESTS)
    assert {(row["model"], row["key"], row["path"]) for row in seen} == {
        ("judge-1", "Bearer secret", "/v1/chat/completions")
    }
    orders = {answers_of(row["messages"][0]["content"]) for row in seen}  # type: ignore[index]
    assert orders >= {("Look it up yourself.", "Cold."), ("Cold.", "Look it up yourself.")}


@pytest.mark.parametrize("letter", ["A", "B"])
def test_judge_that_prefers_a_position_makes_ties(letter: str) -> None:
    with endpoint(lambda _: letter) as (url, _):
        assert EndpointJudge(url, "judge-1").wins(CONTESTS) == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        *(("A", 1.0), ("b", 0.0), ("tie", 0.5), (" **B** ", 0.0), ("Tie.", 0.5), ("Answer A", 1.0)),
        *(("", None), ("C", None), ("A or B", None), ("Both are fine", None), ("a tie", None)),
    ],
)
def test_only_a_b_and_tie_are_verdicts(reply: str, verdict: float | None) -> None:
    assert read_verdict(reply) == verdict


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [(1, 0, 1), (0, 1, 0), (0.5, 0.5, 0.5), (1, 1, 0.5), (0, 0, 0.5), (1, 0.5, 0.5), (0.5, 0, 0.5)],
)
def test_orders_that_disagree_are_a_tie(first: float, second: float, verdict: float) -> None:
    assert both_orders(first, second) == verdict


def test_invalid_replies_never_win() -> None:
    with endpoint(lambda _: "I cannot decide.") as (url, _):
        wins = EndpointJudge(url, "judge-1").wins(CONTESTS)
    assert wins == [None, None, None]
    assert win_rate(wins, ["a", "b", "c"]).candidate == 0
    assert win_rate([None, 1.0], ["a", "b"]).candidate == 0.5


def test_endpoint_that_dies_in_the_middle_counts_nothing() -> None:
    calls = iter(range(100))
    with (
        endpoint(lambda _: "A" if next(calls) < 3 else 500) as (url, _),
        refused(UnavailableError, reason="UNAVAILABLE") as caught,
    ):
        EndpointJudge(url, "judge-1").wins(CONTESTS)
    assert "500" in str(caught.value)
    assert "hot" not in str(caught.value)


def test_passing_failures_of_the_endpoint_are_retried() -> None:
    calls = iter(range(100))
    with endpoint(lambda prompt: 503 if next(calls) == 0 else honest(prompt)) as (url, seen):
        assert EndpointJudge(url, "judge-1").wins(CONTESTS[:1]) == [1.0]
    assert len(seen) == 3
    with endpoint(lambda _: 401) as (url, seen), refused(UnavailableError):
        EndpointJudge(url, "judge-1").wins(CONTESTS[:1])
    assert len(seen) <= 2  # each order once


def test_judge_is_read_from_the_environment() -> None:
    assert judge_from({}) is None
    given = {URL: "https://judge.example/v1", MODEL: "judge-1", KEY: "secret"}
    judge = judge_from(given)
    assert judge == EndpointJudge("https://judge.example/v1", "judge-1", "secret")
    assert "secret" not in repr(judge)
    with refused(ConfigError, field=MODEL, reason="MISSING"):
        judge_from({URL: given[URL]})
    for url in ("file:///etc/passwd", "judge.example", "http://"):
        with refused(ConfigError, field=URL, reason="INVALID"):
            judge_from({**given, URL: url})
