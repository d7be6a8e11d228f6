"""Admission: the limit on calls without a first answer and the queue, in simulated time."""

import asyncio
import functools

import pytest

from services.chassis.admission import QUEUE_SECONDS, Admission, Priority, Ticket
from services.chassis.errors import ResourceExhaustedError
from tests.services.chassis.simulated_queue import Phase, Servers, SimulatedQueue, SimulationResult
from tests.support.errors import refused
from tests.support.simulated_time import simulate

# The second seed of the longest simulations runs only with the long tests.
SEEDS = (1, pytest.param(2, marks=pytest.mark.long))
EIGHT = Servers(8, 0.1)
CALM, OVERLOAD = Phase(30, 0.5), Phase(30, 2.0)


@functools.cache
def overloaded(seed: int) -> SimulationResult:
    """Simulate half load for 30 s, then double load for 150 s."""
    return SimulatedQueue(seed, EIGHT).run((CALM, Phase(150, 2.0)))


def make_admission(floor: int = 4, ceiling: int = 100) -> Admission:
    return Admission("test", floor, ceiling, 1.0, asyncio.get_running_loop().time)


async def serve(admission: Admission, calls: int = 100, seconds: float = 0.05) -> None:
    """Run calls one after another, which gives the latency without load."""
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
def test_double_load_uses_the_servers_and_preserves_latency_of_admitted_calls(
    seed: int,
) -> None:
    result = overloaded(seed)
    assert result.answered(30, 90) >= 0.9 * 60 * EIGHT.calls_a_second
    # During the first seconds the overload is treated as a burst and served from the queue.
    assert result.latency(0.99, 30, 40) <= QUEUE_SECONDS + 4 * result.latency(0.99, 0, 30)
    assert result.latency(0.99, 40, 87) <= 2 * result.latency(0.99, 0, 30)
    assert result.refusals(40, 90) > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_latency_recovers_within_five_seconds_of_an_overload(seed: int) -> None:
    result = SimulatedQueue(seed, EIGHT).run((CALM, OVERLOAD, CALM))
    assert result.refusals(65, 90) == 0
    assert result.latency(0.99, 65, 90) <= 1.3 * result.latency(0.99, 0, 30)


@pytest.mark.parametrize("seed", SEEDS)
def test_half_load_refuses_no_call(seed: int) -> None:
    assert SimulatedQueue(seed, EIGHT).run((Phase(120, 0.5),)).refused == []


@pytest.mark.parametrize("seed", SEEDS)
def test_fivefold_load_uses_the_servers(seed: int) -> None:
    result = SimulatedQueue(seed, EIGHT).run((CALM, Phase(20, 5.0)))
    assert result.answered(30, 50) >= 0.85 * 20 * EIGHT.calls_a_second
    assert result.latency(0.5, 35, 47) <= 3 * result.latency(0.5, 0, 30)


def test_lasting_overload_does_not_become_the_baseline() -> None:
    result = overloaded(1)
    assert result.latency(0.99, 130, 177) <= 2 * result.latency(0.99, 0, 30)


def test_slower_servers_are_used_fully_after_two_minutes() -> None:
    result = SimulatedQueue(1, EIGHT).run((CALM, Phase(180, 1.0, slower=3.0)))
    assert result.answered(150, 210) >= 0.9 * 60 * EIGHT.calls_a_second / 3


def test_streams_are_admitted_up_to_the_capacity_of_the_servers() -> None:
    writers = Servers(8, 0.2, held_seconds=1.0)
    result = SimulatedQueue(1, writers, floor=2).run((Phase(100, 0.5), Phase(200, 2.0)))
    assert result.answered(100, 300) >= 0.9 * 200 * writers.calls_a_second
    # Only a few calls wait for a server, independently of the duration of the overload.
    assert result.latency(0.5, 200, 300) <= QUEUE_SECONDS / 2


@pytest.mark.parametrize("burst", [10, 50, 200])
def test_burst_that_fits_into_two_seconds_is_served_completely(burst: int) -> None:
    outcomes: list[float] = []

    async def play() -> None:
        admission, servers = make_admission(ceiling=500), asyncio.Semaphore(8)
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


def test_queued_call_is_refused_after_two_seconds() -> None:
    async def play() -> None:
        admission = make_admission(floor=1)
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


def test_retry_delays_have_jitter() -> None:
    async def play() -> None:
        admission = make_admission(floor=1)
        await fill(admission, 1)
        waits = set()
        for _ in range(10):
            with pytest.raises(ResourceExhaustedError) as caught:
                await admission.enter("work", queue_seconds=0.01)
            waits.add(caught.value.retry_seconds)
        assert len(waits) > 1

    simulate(play())


def test_full_queue_refuses_at_once() -> None:
    async def play() -> None:
        admission = make_admission(floor=1, ceiling=3)
        await fill(admission, 1)
        queued = [asyncio.create_task(admission.enter("work")) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhaustedError):
            await admission.enter("work")
        assert asyncio.get_running_loop().time() == 0
        await asyncio.gather(*queued, return_exceptions=True)

    simulate(play())


def test_queue_time_is_limited_by_the_caller() -> None:
    async def play() -> None:
        admission = make_admission(floor=1)
        await fill(admission, 1)
        with pytest.raises(ResourceExhaustedError):
            await admission.enter("work", queue_seconds=0.25)
        assert asyncio.get_running_loop().time() == 0.25

    simulate(play())


def test_cancelled_callers_release_their_queue_entries() -> None:
    async def play() -> None:
        admission = make_admission(floor=1)
        held = await fill(admission, 1)
        leaving = [asyncio.create_task(admission.enter("work")) for _ in range(3)]
        await asyncio.sleep(0)
        leaving[0].cancel()
        await asyncio.sleep(0)
        # The second call is admitted and cancelled in the same iteration of the event loop.
        end(admission, held)
        leaving[1].cancel()
        end(admission, [await leaving[2]])
        end(admission, await fill(admission, 1))
        assert [task.cancelled() for task in leaving] == [True, True, False]

    simulate(play())


async def order_of(
    admission: Admission, entering: list[tuple[str, Priority]], hold: Ticket
) -> list[str]:
    """Return names in the order of admission with a limit of 1; calls arrive 10 ms apart."""
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


def test_oldest_call_is_admitted_first_in_a_burst() -> None:
    async def play() -> None:
        admission = make_admission(floor=1)
        (hold,) = await fill(admission, 1)
        entering = [(name, Priority.INTERACTIVE) for name in "abc"]
        assert await order_of(admission, entering, hold) == ["a", "b", "c"]

    simulate(play())


def test_newest_call_is_admitted_first_in_an_old_queue() -> None:
    async def play() -> None:
        admission = make_admission(floor=1)
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


def test_batch_calls_fill_three_quarters_and_are_admitted_last() -> None:
    async def play() -> None:
        admission = make_admission(floor=4)
        batch = [await admission.enter("work", Priority.BATCH) for _ in range(3)]
        waiting = asyncio.create_task(admission.enter("work", Priority.BATCH))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        waiting.cancel()
        end(admission, batch)

        second = make_admission(floor=2)
        (other, hold) = await fill(second, 2)
        entering = [("batch", Priority.BATCH), ("interactive", Priority.INTERACTIVE)]
        order = asyncio.create_task(order_of(second, entering, hold))
        await asyncio.sleep(0.05)
        end(second, [other])
        assert await order == ["interactive", "batch"]

    simulate(play())


def test_interactive_call_passes_waiting_batch_calls() -> None:
    async def play() -> None:
        admission = make_admission(floor=4)
        batch = [await admission.enter("work", Priority.BATCH) for _ in range(3)]
        waiting = asyncio.create_task(admission.enter("work", Priority.BATCH))
        await asyncio.sleep(0.01)
        ticket = await admission.enter("work")
        assert asyncio.get_running_loop().time() == pytest.approx(0.01)
        assert not waiting.done()
        end(admission, [ticket, *batch])
        end(admission, [await waiting])

    simulate(play())


def test_capacity_freed_at_the_moment_of_a_timeout_is_used() -> None:
    """The first call times out and capacity becomes free in the same loop iteration."""

    async def play() -> None:
        admission = make_admission(floor=1)
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


def test_answered_streams_do_not_count_towards_the_limit() -> None:
    async def play() -> None:
        admission = make_admission(floor=2, ceiling=20)
        for _ in range(20):
            admission.answered(await admission.enter("work"))
        # All calls in flight together are bounded by the ceiling.
        with refused(ResourceExhaustedError, reason="OVERLOADED"):
            await admission.enter("work")

    simulate(play())


def test_hanging_calls_do_not_exceed_the_limit() -> None:
    async def play() -> None:
        admission = make_admission(floor=4)
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
    """Run `count` rounds of calls that begin and end together."""
    for _ in range(count):
        tickets = [await admission.enter("work") for _ in range(min(at_once, limit_of(admission)))]
        await asyncio.sleep(seconds)
        for ticket in tickets:
            if outcome != "failed":
                admission.answered(ticket, refused=outcome == "refused")
            admission.leave(ticket)


def test_limit_grows_while_reached_with_stable_latency() -> None:
    async def play() -> None:
        admission = make_admission(floor=4, ceiling=64)
        await serve(admission)
        await rounds(admission, 64, 0.05, 50)
        assert limit_of(admission) == 64

    simulate(play())


def test_limit_does_not_grow_while_not_reached() -> None:
    async def play() -> None:
        admission = make_admission(floor=4, ceiling=64)
        await serve(admission, calls=500)
        assert limit_of(admission) == 4

    simulate(play())


@pytest.mark.parametrize(("outcome", "limit"), [("refused", 4), ("failed", 64)])
def test_refusals_by_peers_lower_the_limit_and_other_failures_do_not(
    outcome: str, limit: int
) -> None:
    async def play() -> None:
        admission = make_admission(floor=4, ceiling=64)
        await serve(admission)
        await rounds(admission, 64, 0.05, 50)
        await rounds(admission, 64, 0.05, 50, outcome=outcome)
        assert limit_of(admission) == limit

    simulate(play())
