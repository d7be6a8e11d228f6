"""The enhancer over a real socket, with its real word lists and linter."""

import asyncio
import time
from collections.abc import Iterator

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from thumbwheel.enhancer.v1 import enhancer_pb2

from services.chassis.errors import DETAILS_KEY
from services.chassis.threads import AbandonedError
from services.enhancer.correction.edits import Edit
from services.enhancer.correction.grammar import Grammar
from services.enhancer.prompt import Enhancer
from tests.services.enhancer.service import client


async def test_corrected_text_is_returned_with_its_edits(enhancer: Enhancer) -> None:
    typed = "wat is teh captial of frnace"
    async with client(enhancer) as stub:
        response = await stub.Enhance(enhancer_pb2.EnhanceRequest(text=typed), timeout=10)
    assert response.text == "What is the capital of France?"
    rebuilt = typed
    for edit in reversed(response.edits):
        rebuilt = rebuilt[: edit.start] + edit.replacement + rebuilt[edit.end :]
    assert rebuilt == response.text
    assert [edit.kind for edit in response.edits][-1] == "punctuation"


@pytest.mark.parametrize(
    ("text", "skipped"),
    [
        ("¿Cómo estás hoy, amigo mío?", "language"),
        ("x = foo(1)", "code"),
        ("word " * 2_000, "too_long"),
    ],
)
async def test_skipped_text_is_returned_with_the_reason(
    enhancer: Enhancer, text: str, skipped: str
) -> None:
    async with client(enhancer) as stub:
        response = await stub.Enhance(enhancer_pb2.EnhanceRequest(text=text), timeout=10)
    assert (response.text, list(response.edits), response.skipped) == (text, [], skipped)


@pytest.mark.parametrize("text", ["", "a" * 32_769])
async def test_empty_or_too_long_text_is_refused_with_field_and_limit(
    enhancer: Enhancer, text: str
) -> None:
    async with client(enhancer) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Enhance(enhancer_pb2.EnhanceRequest(text=text), timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(dict(caught.value.trailing_metadata() or ())[DETAILS_KEY]).details[
        0
    ].Unpack(info)
    assert dict(info.metadata) == {"field": "text", "limit": "1 to 32,768 characters"}


async def test_error_of_a_too_long_text_contains_its_size_and_the_limit(
    enhancer: Enhancer,
) -> None:
    async with client(enhancer) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Enhance(enhancer_pb2.EnhanceRequest(text="a" * 32_771), timeout=10)
    details = caught.value.details() or ""
    assert "32,771" in details
    assert "32,768" in details


@pytest.mark.parametrize("pattern", ["a", "„", "a! ", "www.", "\\[", "class a"])
def test_time_of_a_text_grows_with_its_length_only(enhancer: Enhancer, pattern: str) -> None:
    """Finding S-08: 8,000 letters and one odd character took 1.6 s, quadratic in the length."""

    def cpu_seconds(length: int) -> float:
        text = (pattern * length)[: length - 2] + " ~"
        began = time.thread_time()
        enhancer.enhance(text)
        return time.thread_time() - began

    cpu_seconds(100)
    half, whole = cpu_seconds(3_950), cpu_seconds(7_900)
    # The ratio of a few milliseconds is noise.
    assert whole < max(0.1, 2.8 * half)


def test_text_of_repeated_letters_is_linted_once(
    enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of eight rounds linted 8,000 characters of "A " and found other suggestions."""
    linted = []
    edits = Grammar.edits

    def counted(grammar: Grammar, text: str) -> Iterator[Edit]:
        linted.append(text)
        return edits(grammar, text)

    monkeypatch.setattr(Grammar, "edits", counted)
    text = "A " * 3_999 + "A?"
    assert enhancer.enhance(text).text == text
    assert len(linted) == 1


@pytest.mark.parametrize("marks", ["(", '"', "( ", "[]", "_"])
def test_text_with_a_long_run_of_marks_is_not_linted(
    enhancer: Enhancer, monkeypatch: pytest.MonkeyPatch, marks: str
) -> None:
    """Harper took 0.5 s for 8,000 brackets; its time grows with the square of their number."""
    linted = []

    class CountingLinter:
        def lint(self, text: str, language: str) -> list[object]:
            linted.append(text)
            return []

    monkeypatch.setattr(Grammar, "_linter", lambda grammar: CountingLinter())
    question = "what is teh capital of France "
    for length, lints in ((190, 1), (7_900, 0)):
        linted.clear()
        run = (marks * length)[: length - 1]
        assert enhancer.enhance(question + run).text.startswith("What is the capital of France ")
        assert len(linted) == lints


async def test_short_text_does_not_wait_for_long_texts(enhancer: Enhancer) -> None:
    """Finding S-08: one lock for all made every message wait for the slowest."""
    long = "wat is teh captial of frnace and " * 200
    async with client(enhancer) as stub:
        slow = [
            asyncio.ensure_future(stub.Enhance(enhancer_pb2.EnhanceRequest(text=long), timeout=30))
            for _ in range(3)
        ]
        await asyncio.sleep(0.05)
        await stub.Enhance(enhancer_pb2.EnhanceRequest(text="wat is it"), timeout=10)
        assert not all(call.done() for call in slow)
        for call in slow:
            call.cancel()


def test_work_ends_at_the_next_checkpoint(enhancer: Enhancer) -> None:
    """Finding S-08: work on a long text continued after the deadline of its call."""

    def ended() -> None:
        raise AbandonedError

    with pytest.raises(AbandonedError):
        enhancer.enhance("wat is teh captial of frnace " * 100, ended)
