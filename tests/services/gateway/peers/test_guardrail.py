"""Batching of output checks. A failed call affects only the checks in its batch."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import pytest

from services.chassis.errors import UnavailableError
from services.chassis.identity import CallContext, Caller, bind_call, current_call
from services.contracts.limits import MAX_OUTPUT_CHECKS
from services.gateway.peers.guardrail import Check, OutputChecks, Result

ADA = CallContext(Caller("acme", "ada"), "r1")


class Guard:
    """Guard that waits for the test, and records its calls and their callers."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.callers: list[Caller] = []
        self.open = asyncio.Event()
        self.checks = OutputChecks(self._one, self._many)
        self.leaves_out = 0

    async def ask(self, text: str) -> str:
        """Return a check. Capitals mark the first text of an answer, and ! marks the last."""
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
            raise UnavailableError("unavailable on request", reason="AWAY")
        return [Result(release=check.pending) for check in checks][self.leaves_out :]


async def asked(guard: Guard, *texts: str) -> list["asyncio.Task[str]"]:
    """Start each check in a turn of its own. Returns when all are waiting."""
    tasks = [asyncio.create_task(guard.ask(text)) for text in texts]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def answered(guard: Guard, tasks: "Sequence[asyncio.Task[str]]") -> list[str | BaseException]:
    """Return the results of a guard without delay."""
    guard.open.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_first_and_last_checks_are_sent_at_once_with_all_waiting_ones() -> None:
    guard = Guard()
    tasks = await asked(guard, "A", "b", "c", "D", "e", "f!", "g")
    assert guard.calls == [["A"], ["b", "c", "D"], ["e", "f!"]]
    assert await answered(guard, tasks) == ["A", "b", "c", "D", "e", "f!", "g"]
    assert guard.calls[3:] == [["g"]]


async def test_middle_checks_are_batched_and_each_gets_its_own_verdict() -> None:
    guard = Guard()
    texts = [f"t{number}" for number in range(1 + MAX_OUTPUT_CHECKS + 5)]
    tasks = await asked(guard, *texts)
    assert guard.calls == [texts[:1]]
    assert await answered(guard, tasks) == texts
    assert [len(call) for call in guard.calls] == [1, MAX_OUTPUT_CHECKS, 5]


async def test_single_check_carries_its_caller_and_a_batch_carries_none() -> None:
    guard = Guard()
    bind_call(ADA)
    await answered(guard, await asked(guard, "A", "b", "c"))
    assert guard.callers == [ADA.caller, Caller()]


async def test_failed_call_fails_only_the_checks_of_its_batch() -> None:
    guard = Guard()
    answers = await answered(guard, await asked(guard, "A", "b", "c", "bad"))
    assert answers[0] == "A"
    assert [getattr(error, "reason", "") for error in answers[1:]] == ["AWAY"] * 3
    assert await guard.ask("H") == "H"


async def test_too_few_results_are_an_error() -> None:
    guard = Guard()
    guard.leaves_out = 1
    answers = await answered(guard, await asked(guard, "A", "b", "c"))
    assert [getattr(error, "reason", "") for error in answers[1:]] == ["GUARDRAIL_UNAVAILABLE"] * 2


async def test_checks_of_stopped_turns_are_not_sent() -> None:
    guard = Guard()
    tasks = await asked(guard, "A", "b", "c", "d")
    tasks[2].cancel()
    with suppress(asyncio.CancelledError):
        await tasks[2]
    assert (await answered(guard, tasks))[3] == "d"
    assert guard.calls == [["A"], ["b", "d"]]


@pytest.mark.parametrize("long", [9_000, 32_768])
async def test_long_text_is_sent_alone(long: int) -> None:
    guard = Guard()
    await answered(guard, await asked(guard, "A", "b", "c" * long, "d"))
    assert [[len(text) for text in call] for call in guard.calls] == [[1], [1], [long], [1]]
