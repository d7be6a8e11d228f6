"""Independent pieces of work on the processors of this machine, or of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Self, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")
# A task that failed with its machine is repeated; an exception of the function ends the run.
ATTEMPTS = 3
ADDRESS = "RAY_ADDRESS"
# Added to the niceness of this process for workers that are started here. With Ray's default, 15,
# they would hardly get a processor beside other programs.
NICENESS = {"RAY_worker_niceness": "0"}


class Workers:
    """Runs functions on several parts at once. Use as a context manager.

    Ray starts with the first work, since its start takes up to a minute, and ends with the block.
    """

    def __init__(self, count: int) -> None:
        """Set the number of workers.

        Args:
            count: parts at once; 1 works in this process. With the environment variable RAY_ADDRESS
                the parts are tasks of that cluster, whose machines must share the file system.
        """
        self._count = count
        self._cluster = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End Ray, if it was started here."""
        self._cluster.close()

    def each(
        self, function: Callable[[Part], Result], parts: Sequence[Part]
    ) -> Iterator[tuple[Part, Result]]:
        """Yield each part with its result, in the order in which they end.

        Args:
            function: importable by the workers; its arguments and results are pickled.

        Raises:
            Exception: the first exception of the function; later parts are not started.
        """
        if not parts or (self._count <= 1 and not os.environ.get(ADDRESS)):
            for part in parts:
                yield part, function(part)
            return
        import ray

        from training.cluster.group import ray_cluster

        for name, value in NICENESS.items():
            os.environ.setdefault(name, value)
        self._cluster.enter_context(ray_cluster(self._count))
        task = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_call)
        shared = ray.put(function)
        waiting = list(reversed(parts))
        running: dict[Any, Part] = {}
        while waiting or running:
            while waiting and len(running) < self._count:
                part = waiting.pop()
                running[task.remote(shared, part)] = part
            done, _ = ray.wait(list(running), num_returns=1)
            for reference in done:
                yield running.pop(reference), ray.get(reference)


def _call(function: Callable[[Part], Result], part: Part) -> Result:
    return function(part)
