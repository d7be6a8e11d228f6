"""Checks that wait go together, and what goes wrong with one call is told to those who asked in it."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest

from services.chassis.errors import UnavailableError
from services.chassis.identity import CallContext, Caller, bind_call, current_call
from services.gateway.peers.output_checks import MOST_CALLS, MOST_CHECKS, Check, OutputChecks, Result

ADA = CallContext(Caller("acme", "ada"), "r1")


class Guard:
    """Releases what it is asked for, when it is let; says which calls there were, and on whose behalf."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.callers: list[Caller] = []
        self.open = asyncio.Event()
        self.checks = OutputChecks(self._one, self._many)
        self.leaves_out = 0

    async def ask(self, text: str) -> str:
        return str((await self.checks.check(Check(pending=text))).release)

    async def _one(self, check: Check) -> Result:
        return (await self._many([check]))[0]

    async def _many(self, checks: Sequence[Check]) -> Sequence[Result]:
        self.calls.append([check.pending for check in checks])
        self.callers.append(current_call().caller)
        await self.open.wait()
        if any(check.pending == "bad" for check in checks):
            raise UnavailableError("told to be away", reason="AWAY")
        return [Result(release=check.pending) for check in checks][self.leaves_out :]


async def asked(guard: Guard, texts: Sequence[str]) -> list["asyncio.Task[str]"]:
    """Each by a turn of its own; returns when all stand in line."""
    tasks = [asyncio.create_task(guard.ask(text)) for text in texts]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_a_check_goes_at_once_and_those_that_come_meanwhile_go_together_each_to_its_own_answer() -> None:
    guard = Guard()
    texts = [str(number) for number in range(MOST_CALLS + MOST_CHECKS + 5)]
    tasks = await asked(guard, texts)
    assert guard.calls == [[text] for text in texts[:MOST_CALLS]]
    guard.open.set()
    assert await asyncio.gather(*tasks) == texts
    later = guard.calls[MOST_CALLS:]
    assert [len(call) for call in later] == [MOST_CHECKS, 5]
    assert [text for call in later for text in call] == texts[MOST_CALLS:]


async def test_alone_it_is_asked_for_its_user_and_in_company_for_nobody() -> None:
    guard = Guard()
    bind_call(ADA)
    tasks = await asked(guard, [str(number) for number in range(MOST_CALLS + 2)])
    guard.open.set()
    await asyncio.gather(*tasks)
    assert guard.callers == [ADA.caller] * MOST_CALLS + [Caller()]


async def test_a_call_that_fails_is_told_to_all_who_asked_in_it_and_to_no_other() -> None:
    guard = Guard()
    tasks = await asked(guard, ["a", "b", *"cdefg", "bad"])
    guard.open.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert answers[:MOST_CALLS] == ["a", "b"]
    assert [getattr(error, "reason", "") for error in answers[MOST_CALLS:]] == ["AWAY"] * 6
    assert await guard.ask("h") == "h"


async def test_an_answer_that_is_too_short_is_no_answer() -> None:
    guard = Guard()
    guard.leaves_out = 1
    tasks = await asked(guard, [*"abcd"])
    guard.open.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [getattr(error, "reason", "") for error in answers[MOST_CALLS:]] == ["GUARDRAIL_UNAVAILABLE"] * 2


async def test_a_turn_that_was_stopped_is_not_asked_for() -> None:
    guard = Guard()
    tasks = await asked(guard, [*"abcde"])
    tasks[3].cancel()
    with suppress(asyncio.CancelledError):
        await tasks[3]
    guard.open.set()
    assert await asyncio.gather(*tasks[:3], tasks[4]) == [*"abce"]
    assert guard.calls[MOST_CALLS:] == [["c", "e"]]


@pytest.mark.parametrize("long", [9_000, 32_768])
async def test_a_long_text_goes_alone(long: int) -> None:
    guard = Guard()
    tasks = await asked(guard, ["a", "b", "c", "d" * long, "e"])
    guard.open.set()
    await asyncio.gather(*tasks)
    assert [[len(text) for text in call] for call in guard.calls[MOST_CALLS:]] == [[1], [long], [1]]
