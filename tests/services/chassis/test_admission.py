"""The limit on calls in flight, before a simulated queue with seeds, and who is refused first."""

import pytest

from services.chassis.admission import Admission, Priority, Ticket
from services.chassis.errors import ResourceExhaustedError
from tests.services.chassis.simulated_queue import Phase, Servers, SimulatedQueue
from tests.support.errors import refused

SEEDS = (1, 2, 3)
EIGHT = Servers(8, 0.05)
CALM, OVERLOAD = Phase(30, 0.5), Phase(60, 2.0)


class Clock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def door(clock: Clock, floor: int = 4, ceiling: int = 100) -> Admission:
    return Admission("test", floor, ceiling, 1.0, clock=clock)


def serve_calmly(admission: Admission, clock: Clock, calls: int = 100, seconds: float = 0.05) -> None:
    """Calls one after another: what is usual."""
    for _ in range(calls):
        ticket = admission.enter("work")
        clock.now += seconds
        admission.answered(ticket)
        admission.leave(ticket)


def fill(admission: Admission, priority: Priority = Priority.INTERACTIVE) -> list[Ticket]:
    """Enter until it is full."""
    tickets = []
    with pytest.raises(ResourceExhaustedError):
        while True:
            tickets.append(admission.enter("work", priority))
    return tickets


@pytest.mark.parametrize("seed", SEEDS)
def test_at_twice_the_load_nearly_all_capacity_serves_and_who_is_admitted_hardly_waits(seed: int) -> None:
    story = SimulatedQueue(seed, EIGHT).run((CALM, OVERLOAD, CALM))
    assert story.answered(30, 90) >= 0.9 * 60 * EIGHT.calls_a_second
    assert story.latency(0.99, 30, 90) <= 2 * story.latency(0.99, 0, 30)
    assert story.refusals(30, 90) > 0


@pytest.mark.parametrize("seed", SEEDS)
def test_five_seconds_after_an_overload_all_is_as_before(seed: int) -> None:
    story = SimulatedQueue(seed, EIGHT).run((CALM, OVERLOAD, CALM))
    assert story.refusals(95, 120) == 0
    assert story.latency(0.99, 95, 120) <= 1.3 * story.latency(0.99, 0, 30)


@pytest.mark.parametrize("seed", SEEDS)
def test_at_half_the_load_nobody_is_refused(seed: int) -> None:
    assert SimulatedQueue(seed, EIGHT).run((Phase(120, 0.5),)).refused == []


@pytest.mark.parametrize("seed", SEEDS)
def test_at_five_times_the_load_the_first_seconds_are_slow_and_the_others_are_not(seed: int) -> None:
    story = SimulatedQueue(seed, EIGHT).run((CALM, Phase(60, 5.0)))
    assert story.answered(30, 90) >= 0.9 * 60 * EIGHT.calls_a_second
    assert story.latency(0.99, 35, 90) <= 2 * story.latency(0.99, 0, 30)


def test_a_lasting_overload_does_not_become_usual() -> None:
    story = SimulatedQueue(1, EIGHT).run((CALM, Phase(300, 2.0)))
    assert story.latency(0.99, 230, 330) <= 2 * story.latency(0.99, 0, 30)


def test_servers_that_became_slower_are_used_in_full_again_after_some_probes() -> None:
    story = SimulatedQueue(1, EIGHT).run((CALM, Phase(120, 1.0, slower=3.0)))
    assert story.answered(90, 150) >= 0.9 * 60 * EIGHT.calls_a_second / 3


def test_a_stream_counts_as_long_as_it_runs_and_is_measured_by_its_first_answer() -> None:
    writers = Servers(8, 0.2, held_seconds=1.0)
    story = SimulatedQueue(1, writers).run((Phase(100, 0.5), Phase(200, 2.0)))
    assert story.answered(100, 300) >= 0.9 * 200 * writers.calls_a_second
    assert story.latency(0.99, 100, 300) <= 2 * story.latency(0.99, 0, 100)


def test_calls_that_hang_close_the_door_though_none_of_them_ends() -> None:
    clock = Clock()
    admission = door(clock)
    serve_calmly(admission, clock)
    hanging = 0
    for _ in range(60):
        clock.now += 0.05
        try:
            admission.enter("work")
            hanging += 1
        except ResourceExhaustedError:
            continue
    assert hanging < 20


def test_failures_that_come_quickly_are_no_sign_of_speed() -> None:
    clock = Clock()
    admission = door(clock)
    serve_calmly(admission, clock, seconds=0.2)
    for _ in range(200):
        admission.leave(admission.enter("work"))
        clock.now += 0.01
    waiting = [admission.enter("work") for _ in range(30)]
    clock.now += 0.25
    # As usual: nothing has changed, although 200 failures took no time at all.
    for ticket in waiting:
        admission.answered(ticket)
        admission.leave(ticket)
    assert len(fill(admission)) == 100


def test_batch_calls_are_refused_first() -> None:
    admission = door(Clock())
    batch = fill(admission, Priority.BATCH)
    assert len(batch) == 75
    assert len(fill(admission)) == 25


def test_below_the_floor_nobody_is_refused_however_long_they_wait() -> None:
    clock = Clock()
    admission = door(clock, floor=8)
    serve_calmly(admission, clock)
    for _ in range(100):
        clock.now += 0.05
        waiting = [admission.enter("work") for _ in range(8)]
        clock.now += 2.0
        for ticket in waiting:
            admission.answered(ticket)
            admission.leave(ticket)


def test_a_refusal_says_the_limit_and_when_to_come_back_not_all_at_once() -> None:
    admission = door(Clock(), ceiling=1)
    admission.enter("work")
    waits = set()
    for _ in range(10):
        with refused(ResourceExhaustedError, reason="OVERLOADED", limit="1 at once") as caught:
            admission.enter("work")
        waits.add(caught.value.retry_seconds)
    assert len(waits) > 1
    assert all(0.5 <= wait <= 1.5 for wait in waits)
