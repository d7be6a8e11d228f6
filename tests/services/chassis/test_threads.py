"""Work in threads which its caller waits for, also when the caller is cancelled."""

import asyncio
import threading

import pytest

from services.chassis.threads import run_to_end


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
    await asyncio.to_thread(begun.wait)
    caller.cancel()
    # The cancellation reaches the caller, and would end a caller that does not wait.
    for _ in range(10):
        await asyncio.sleep(0)
    may_end.set()
    await asyncio.wait([caller])
    assert events == ["work", "caller"]
    assert caller.cancelled()
