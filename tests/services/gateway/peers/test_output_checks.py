"""Checks that can wait go together, and what goes wrong with one call is told to those who asked in
it.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest

from services.chassis.errors import UnavailableError
from services.chassis.identity import CallContext, Caller, bind_call, current_call
from services.gateway.peers.output_checks import MAX_CHECKS, Check, OutputChecks, Result

ADA = CallContext(Caller("acme", "ada"), "r1")


class Guard:
    """Releases what it is asked for, when it is let; says which calls there were, and on whose
    behalf.
    """

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.callers: list[Caller] = []
        self.open = asyncio.Event()
        self.checks = OutputChecks(self._one, self._many)
        self.leaves_out = 0

    async def ask(self, text: str) -> str:
        """Capitals begin an answer, and ! ends it."""
        tail = "" if text.isupper() else "before"
        return str(
            (
                await self.checks.check(
                    Check(released_tail=tail, pending=text, final=text.endswith("!"))
                )
            ).release
        )

    async def _one(self, check: Check) -> Result:
        return (await self._many([check]))[0]

    async def _many(self, checks: Sequence[Check]) -> Sequence[Result]:
        self.calls.append([check.pending for check in checks])
        self.callers.append(current_call().caller)
        await self.open.wait()
        if any(check.pending == "bad" for check in checks):
            raise UnavailableError("told to be away", reason="AWAY")
        return [Result(release=check.pending) for check in checks][self.leaves_out :]


async def asked(guard: Guard, *texts: str) -> list["asyncio.Task[str]"]:
    """Each by a turn of its own; returns when all stand in line."""
    tasks = [asyncio.create_task(guard.ask(text)) for text in texts]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def answered(guard: Guard, tasks: "Sequence[asyncio.Task[str]]") -> list[str | BaseException]:
    """By a guard that answers now."""
    guard.open.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_begins_or_ends_an_answer_goes_at_once_and_takes_along_what_waits() -> None:
    guard = Guard()
    tasks = await asked(guard, "A", "b", "c", "D", "e", "f!", "g")
    assert guard.calls == [["A"], ["b", "c", "D"], ["e", "f!"]]
    assert await answered(guard, tasks) == ["A", "b", "c", "D", "e", "f!", "g"]
    assert guard.calls[3:] == [["g"]]


async def test_the_middle_of_many_answers_goes_together_and_each_gets_its_own_verdict() -> None:
    guard = Guard()
    texts = [f"t{number}" for number in range(1 + MAX_CHECKS + 5)]
    tasks = await asked(guard, *texts)
    assert guard.calls == [texts[:1]]
    assert await answered(guard, tasks) == texts
    assert [len(call) for call in guard.calls] == [1, MAX_CHECKS, 5]


async def test_alone_it_is_asked_for_its_user_and_in_company_for_nobody() -> None:
    guard = Guard()
    bind_call(ADA)
    await answered(guard, await asked(guard, "A", "b", "c"))
    assert guard.callers == [ADA.caller, Caller()]


async def test_a_call_that_fails_is_told_to_all_who_asked_in_it_and_to_no_other() -> None:
    guard = Guard()
    answers = await answered(guard, await asked(guard, "A", "b", "c", "bad"))
    assert answers[0] == "A"
    assert [getattr(error, "reason", "") for error in answers[1:]] == ["AWAY"] * 3
    assert await guard.ask("H") == "H"


async def test_an_answer_that_is_too_short_is_no_answer() -> None:
    guard = Guard()
    guard.leaves_out = 1
    answers = await answered(guard, await asked(guard, "A", "b", "c"))
    assert [getattr(error, "reason", "") for error in answers[1:]] == ["GUARDRAIL_UNAVAILABLE"] * 2


async def test_a_turn_that_was_stopped_is_not_asked_for() -> None:
    guard = Guard()
    tasks = await asked(guard, "A", "b", "c", "d")
    tasks[2].cancel()
    with suppress(asyncio.CancelledError):
        await tasks[2]
    assert (await answered(guard, tasks))[3] == "d"
    assert guard.calls == [["A"], ["b", "d"]]


@pytest.mark.parametrize("long", [9_000, 32_768])
async def test_a_long_text_goes_alone(long: int) -> None:
    guard = Guard()
    await answered(guard, await asked(guard, "A", "b", "c" * long, "d"))
    assert [[len(text) for text in call] for call in guard.calls] == [[1], [1], [long], [1]]
