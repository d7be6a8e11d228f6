"""The limit on calls that wait for their first answer, and the queue before it, in simulated time
with seeds.
"""

import asyncio
import functools

import pytest

from services.chassis.admission import QUEUE_SECONDS, Admission, Priority, Ticket
from services.chassis.errors import ResourceExhaustedError
from tests.services.chassis.simulated_queue import Phase, Servers, SimulatedQueue, Story
from tests.support.errors import refused
from tests.support.simulated_time import simulate

# One seed of the longest histories is enough for each commit.
SEEDS = (1, pytest.param(2, marks=pytest.mark.long))
EIGHT = Servers(8, 0.1)
CALM, OVERLOAD = Phase(30, 0.5), Phase(30, 2.0)


@functools.cache
def overloaded(seed: int) -> Story:
    """Two and a half minutes at twice the load, after half a minute of calm."""
    return SimulatedQueue(seed, EIGHT).run((CALM, Phase(150, 2.0)))


def door(floor: int = 4, ceiling: int = 100) -> Admission:
    return Admission("test", floor, ceiling, 1.0, asyncio.get_running_loop().time)


async def serve(admission: Admission, calls: int = 100, seconds: float = 0.05) -> None:
    """Calls one after another: latency without load."""
    for _ in range(calls):
        ticket = await admission.enter("work")
        await asyncio.sleep(seconds)
        admission.answered(ticket)
        admission.leave(ticket)


async def fill(admission: Admission, calls: int) -> list[Ticket]:
    return [await admission.enter("work") for _ in range(calls)]


def end(admission: Admission, tickets: list[Ticket]) -> None:
    for ticket in tickets:
        admission.answered(ticket)
        admission.leave(ticket)


@pytest.mark.parametrize("seed", SEEDS)
def test_at_twice_the_load_the_servers_are_used_and_admitted_calls_keep_their_latency(
    seed: int,
) -> None:
    story = overloaded(seed)
    assert story.answered(30, 90) >= 0.9 * 60 * EIGHT.calls_a_second
    # The first seconds are taken for a burst, and served from the queue.
    assert story.latency(0.99, 30, 40) <= QUEUE_SECONDS + 4 * story.latency(0.99, 0, 30)
    assert story.latency(0.99, 40, 87) <= 2 * story.latency(0.99, 0, 30)
    assert story.refusals(40, 90) > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_five_seconds_after_an_overload_all_is_as_before(seed: int) -> None:
    story = SimulatedQueue(seed, EIGHT).run((CALM, OVERLOAD, CALM))
    assert story.refusals(65, 90) == 0
    assert story.latency(0.99, 65, 90) <= 1.3 * story.latency(0.99, 0, 30)


@pytest.mark.parametrize("seed", SEEDS)
def test_at_half_the_load_no_call_is_refused(seed: int) -> None:
    assert SimulatedQueue(seed, EIGHT).run((Phase(120, 0.5),)).refused == []


@pytest.mark.parametrize("seed", SEEDS)
def test_at_five_times_the_load_the_servers_are_used(seed: int) -> None:
    story = SimulatedQueue(seed, EIGHT).run((CALM, Phase(20, 5.0)))
    assert story.answered(30, 50) >= 0.85 * 20 * EIGHT.calls_a_second
    assert story.latency(0.5, 35, 47) <= 3 * story.latency(0.5, 0, 30)


def test_a_lasting_overload_is_not_taken_for_normal() -> None:
    story = overloaded(1)
    assert story.latency(0.99, 130, 177) <= 2 * story.latency(0.99, 0, 30)


def test_servers_that_became_slower_are_used_again_after_two_minutes() -> None:
    story = SimulatedQueue(1, EIGHT).run((CALM, Phase(180, 1.0, slower=3.0)))
    assert story.answered(150, 210) >= 0.9 * 60 * EIGHT.calls_a_second / 3


def test_streams_that_hold_the_servers_are_all_let_in_that_the_servers_can_hold() -> None:
    writers = Servers(8, 0.2, held_seconds=1.0)
    story = SimulatedQueue(1, writers, floor=2).run((Phase(100, 0.5), Phase(200, 2.0)))
    assert story.answered(100, 300) >= 0.9 * 200 * writers.calls_a_second
    # What waits for a server is a few calls, however long the overload lasts.
    assert story.latency(0.5, 200, 300) <= QUEUE_SECONDS / 2


@pytest.mark.parametrize("burst", [10, 50, 200])
def test_a_burst_that_is_served_within_two_seconds_is_served_completely(burst: int) -> None:
    outcomes: list[float] = []

    async def play() -> None:
        admission, servers = door(ceiling=500), asyncio.Semaphore(8)
        clock = asyncio.get_running_loop().time
        await serve(admission)
        began = clock()

        async def call() -> None:
            ticket = await admission.enter("work")
            async with servers:
                await asyncio.sleep(0.05)
            end(admission, [ticket])
            outcomes.append(clock() - began)

        await asyncio.gather(*(call() for _ in range(burst)))

    simulate(play())
    assert len(outcomes) == burst
    assert max(outcomes) <= QUEUE_SECONDS + 0.05


def test_a_call_waits_for_a_place_and_is_refused_after_two_seconds() -> None:
    async def play() -> None:
        admission = door(floor=1)
        clock = asyncio.get_running_loop().time
        held = await fill(admission, 1)
        waiting = asyncio.create_task(admission.enter("work"))
        await asyncio.sleep(1.0)
        end(admission, held)
        ticket = await waiting
        assert clock() == 1.0
        with refused(
            ResourceExhaustedError, field="", reason="OVERLOADED", limit="1 at once"
        ) as caught:
            await admission.enter("work")
        assert clock() == 1.0 + QUEUE_SECONDS
        assert 0.5 <= caught.value.retry_seconds <= 1.5
        end(admission, [ticket])

    simulate(play())


def test_retry_delays_are_spread() -> None:
    async def play() -> None:
        admission = door(floor=1)
        await fill(admission, 1)
        waits = set()
        for _ in range(10):
            with pytest.raises(ResourceExhaustedError) as caught:
                await admission.enter("work", queue_seconds=0.01)
            waits.add(caught.value.retry_seconds)
        assert len(waits) > 1

    simulate(play())


def test_a_full_queue_refuses_at_once() -> None:
    async def play() -> None:
        admission = door(floor=1, ceiling=3)
        await fill(admission, 1)
        queued = [asyncio.create_task(admission.enter("work")) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhaustedError):
            await admission.enter("work")
        assert asyncio.get_running_loop().time() == 0
        await asyncio.gather(*queued, return_exceptions=True)

    simulate(play())


def test_a_call_waits_no_longer_than_its_caller_can() -> None:
    async def play() -> None:
        admission = door(floor=1)
        await fill(admission, 1)
        with pytest.raises(ResourceExhaustedError):
            await admission.enter("work", queue_seconds=0.25)
        assert asyncio.get_running_loop().time() == 0.25

    simulate(play())


def test_a_caller_who_leaves_the_queue_leaves_no_place_behind() -> None:
    async def play() -> None:
        admission = door(floor=1)
        held = await fill(admission, 1)
        leaving = [asyncio.create_task(admission.enter("work")) for _ in range(3)]
        await asyncio.sleep(0)
        leaving[0].cancel()
        await asyncio.sleep(0)
        # The second is admitted and cancelled in the same turn of the loop, before it knows.
        end(admission, held)
        leaving[1].cancel()
        end(admission, [await leaving[2]])
        end(admission, await fill(admission, 1))
        assert [task.cancelled() for task in leaving] == [True, True, False]

    simulate(play())


async def order_of(
    admission: Admission, entering: list[tuple[str, Priority]], hold: Ticket
) -> list[str]:
    """Names in the order of their admission; one place, entered one after another 10 ms apart."""
    order: list[str] = []

    async def call(name: str, priority: Priority) -> None:
        ticket = await admission.enter("work", priority)
        order.append(name)
        await asyncio.sleep(0.01)
        end(admission, [ticket])

    calls = []
    for name, priority in entering:
        calls.append(asyncio.create_task(call(name, priority)))
        await asyncio.sleep(0.01)
    end(admission, [hold])
    await asyncio.gather(*calls)
    return order


def test_the_oldest_goes_first_in_a_burst() -> None:
    async def play() -> None:
        admission = door(floor=1)
        (hold,) = await fill(admission, 1)
        entering = [(name, Priority.INTERACTIVE) for name in "abc"]
        assert await order_of(admission, entering, hold) == ["a", "b", "c"]

    simulate(play())


def test_the_newest_goes_first_once_the_queue_has_stood_longer_than_a_burst() -> None:
    async def play() -> None:
        admission = door(floor=1)
        (hold,) = await fill(admission, 1)
        early = [asyncio.create_task(admission.enter("work")) for _ in range(2)]
        await asyncio.sleep(QUEUE_SECONDS - 0.1)
        late = asyncio.create_task(admission.enter("work"))
        await asyncio.sleep(0.2)
        entering = [(name, Priority.INTERACTIVE) for name in "abc"]
        order = asyncio.create_task(order_of(admission, entering, hold))
        refusals = await asyncio.gather(*early, return_exceptions=True)
        end(admission, [await late])
        assert [type(each) for each in refusals] == [ResourceExhaustedError] * 2
        assert await order == ["c", "b", "a"]

    simulate(play())


def test_batch_calls_fill_three_quarters_and_leave_the_queue_last() -> None:
    async def play() -> None:
        admission = door(floor=4)
        batch = [await admission.enter("work", Priority.BATCH) for _ in range(3)]
        waiting = asyncio.create_task(admission.enter("work", Priority.BATCH))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        waiting.cancel()
        end(admission, batch)

        one = door(floor=2)
        (other, hold) = await fill(one, 2)
        entering = [("batch", Priority.BATCH), ("interactive", Priority.INTERACTIVE)]
        order = asyncio.create_task(order_of(one, entering, hold))
        await asyncio.sleep(0.05)
        end(one, [other])
        assert await order == ["interactive", "batch"]

    simulate(play())


def test_an_interactive_call_passes_batch_calls_that_wait_for_their_share() -> None:
    async def play() -> None:
        admission = door(floor=4)
        batch = [await admission.enter("work", Priority.BATCH) for _ in range(3)]
        waiting = asyncio.create_task(admission.enter("work", Priority.BATCH))
        await asyncio.sleep(0.01)
        ticket = await admission.enter("work")
        assert asyncio.get_running_loop().time() == pytest.approx(0.01)
        assert not waiting.done()
        end(admission, [ticket, *batch])
        end(admission, [await waiting])

    simulate(play())


def test_a_place_that_becomes_free_as_a_wait_ends_is_used() -> None:
    """The wait of the first in the queue ends, and a place becomes free, in the same turn of the
    loop.
    """

    async def play() -> None:
        admission = door(floor=1)
        held = await fill(admission, 1)
        first = asyncio.create_task(admission.enter("work"))
        await asyncio.sleep(QUEUE_SECONDS / 2)
        second = asyncio.create_task(admission.enter("work"))
        loop = asyncio.get_running_loop()
        loop.call_at(QUEUE_SECONDS, lambda: end(admission, held))
        await asyncio.wait({first, second})
        outcomes = [type(task.exception()) for task in (first, second)]
        assert outcomes in (
            [ResourceExhaustedError, type(None)],
            [type(None), ResourceExhaustedError],
        )
        end(admission, [task.result() for task in (first, second) if not task.exception()])
        end(admission, await fill(admission, 1))

    simulate(play())


def test_streams_that_have_answered_take_no_place() -> None:
    async def play() -> None:
        admission = door(floor=2, ceiling=20)
        for _ in range(20):
            admission.answered(await admission.enter("work"))
        # All in flight together are bounded all the same.
        with refused(ResourceExhaustedError, reason="OVERLOADED"):
            await admission.enter("work")

    simulate(play())


def test_calls_that_hang_take_the_places_and_no_more() -> None:
    async def play() -> None:
        admission = door(floor=4)
        await serve(admission)
        entered = 0
        for _ in range(20):
            try:
                await admission.enter("work", queue_seconds=0.01)
                entered += 1
            except ResourceExhaustedError:
                continue
        assert entered == 4

    simulate(play())


def limit_of(admission: Admission) -> int:
    return admission._limit.allowed


async def rounds(
    admission: Admission, at_once: int, seconds: float, count: int, *, outcome: str = "answered"
) -> None:
    """Calls that begin and end together."""
    for _ in range(count):
        tickets = [await admission.enter("work") for _ in range(min(at_once, limit_of(admission)))]
        await asyncio.sleep(seconds)
        for ticket in tickets:
            if outcome != "failed":
                admission.answered(ticket, refused=outcome == "refused")
            admission.leave(ticket)


def test_the_limit_grows_while_it_is_reached_and_latency_stays() -> None:
    async def play() -> None:
        admission = door(floor=4, ceiling=64)
        await serve(admission)
        await rounds(admission, 64, 0.05, 50)
        assert limit_of(admission) == 64

    simulate(play())


def test_the_limit_does_not_grow_while_it_is_not_reached() -> None:
    async def play() -> None:
        admission = door(floor=4, ceiling=64)
        await serve(admission, calls=500)
        assert limit_of(admission) == 4

    simulate(play())


@pytest.mark.parametrize(("outcome", "limit"), [("refused", 4), ("failed", 64)])
def test_refusals_of_peers_lower_the_limit_and_other_failures_do_not(
    outcome: str, limit: int
) -> None:
    async def play() -> None:
        admission = door(floor=4, ceiling=64)
        await serve(admission)
        await rounds(admission, 64, 0.05, 50)
        await rounds(admission, 64, 0.05, 50, outcome=outcome)
        assert limit_of(admission) == limit

    simulate(play())
