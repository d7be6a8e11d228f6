"""Work in threads: of callers that wait for its end, and of owners with a limit."""

import asyncio
import threading

import pytest

from services.chassis.threads import Checkpoint, OwnedThreads, OwnerLimitError, run_to_end


async def test_result_and_error_are_those_of_the_work() -> None:
    assert await run_to_end(divmod, 7, 3) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        await run_to_end(divmod, 7, 0)


@pytest.mark.parametrize("divisor", [3, 0])
async def test_cancelled_caller_ends_after_the_work(divisor: int) -> None:
    begun, may_end, events = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        may_end.wait(60)
        events.append("work")
        divmod(7, divisor)

    caller = asyncio.create_task(run_to_end(work))
    caller.add_done_callback(lambda _: events.append("caller"))
    await asyncio.to_thread(begun.wait, 60)
    caller.cancel()
    # The cancellation reaches the caller, and would end a caller that does not wait.
    for _ in range(10):
        await asyncio.sleep(0)
    may_end.set()
    await asyncio.wait([caller])
    assert events == ["work", "caller"]
    assert caller.cancelled()


async def test_owner_has_one_running_and_few_waiting_pieces_of_work() -> None:
    """Finding N-02: the corrections of one user occupied all threads."""
    threads, may_end, running = OwnedThreads(2, "test", max_waiting=1), threading.Event(), []

    def work(name: str) -> str:
        running.append(name)
        may_end.wait(60)
        return name

    calls = [
        asyncio.create_task(threads.run_for("one", lambda _, name=name: work(name)))
        for name in ("first", "second")
    ]
    await asyncio.sleep(0)
    with pytest.raises(OwnerLimitError) as caught:
        await threads.run_for("one", lambda _: work("third"))
    assert caught.value.reason == "TOO_MANY_TEXTS"
    assert await threads.run_for("other", lambda _: "of another owner") == "of another owner"
    assert running == ["first"]
    may_end.set()
    assert await asyncio.gather(*calls) == ["first", "second"]
    assert await threads.run_for("one", lambda _: work("fourth")) == "fourth"


async def test_work_of_a_cancelled_call_ends_at_its_next_checkpoint() -> None:
    begun, ended = threading.Event(), threading.Event()

    def work(checkpoint: Checkpoint) -> None:
        begun.set()
        try:
            while True:
                checkpoint()
        finally:
            ended.set()

    call = asyncio.create_task(OwnedThreads(1, "test", max_waiting=1).run_for("one", work))
    await asyncio.to_thread(begun.wait, 60)
    call.cancel()
    assert await asyncio.to_thread(ended.wait, 60)
