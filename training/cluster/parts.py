"""Independent pieces of work on the processors of this machine, or of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")
# A task that failed with its machine is repeated; an exception of the function ends the run.
ATTEMPTS = 3
ADDRESS = "RAY_ADDRESS"


def each(
    function: Callable[[Part], Result], parts: Sequence[Part], workers: int
) -> Iterator[tuple[Part, Result]]:
    """Yield each part with its result, in the order in which they end.

    Args:
        function: importable by the workers; its arguments and results are pickled.
        workers: parts at once; 1 works in this process. With the environment variable RAY_ADDRESS
            the parts are tasks of that cluster, whose machines must share the file system.

    Raises:
        Exception: the first exception of the function; later parts are not started.
    """
    if workers <= 1 and not os.environ.get(ADDRESS):
        for part in parts:
            yield part, function(part)
        return
    yield from _on_ray(function, parts, workers)


def _on_ray(
    function: Callable[[Part], Result], parts: Sequence[Part], workers: int
) -> Iterator[tuple[Part, Result]]:
    import ray

    from training.cluster.group import ray_cluster

    with ray_cluster(workers):
        task = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(function)
        waiting = list(reversed(parts))
        running: dict[Any, Part] = {}
        while waiting or running:
            while waiting and len(running) < workers:
                part = waiting.pop()
                running[task.remote(part)] = part
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                yield running.pop(reference), ray.get(reference)
