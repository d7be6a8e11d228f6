"""Ray cluster of stages: an existing cluster (RAY_ADDRESS), or a new one on this machine.

Ray is imported in functions (see runner.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from training.cluster.notice import restored_handlers

START_TRIES, START_TOO_SLOW = 3, "timed out"
# Set on an existing cluster, by Ray itself for the programs of its jobs.
ADDRESS = "RAY_ADDRESS"
ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # avoids thousands of log lines
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # with 2 s, reports block for seconds
    # with 5 s, a sixth of a pod's usual notice is lost
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    # Workers without a GPU see none and compute on the CPU.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}
# For a cluster that is started here.
OWN_ENVIRONMENT = {
    # An additional process; this machine is not preempted with notice.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_AUTH_MODE": "disabled",  # the cluster serves only this process, on loopback
    "RAY_USAGE_STATS_ENABLED": "0",
}
QUIET = {"log_to_driver": False, "configure_logging": False}


@contextmanager
def ray_cluster(processors: int) -> Iterator[None]:
    """Provide Ray inside the block: the cluster of RAY_ADDRESS, or a new one on this machine.

    Does nothing if `processors` is 0 or Ray is already initialised.

    Starting Ray takes tens of seconds on two busy cores, so use one block for several stages.
    """
    if processors == 0:
        yield
        return
    import ray

    if ray.is_initialized():
        yield
        return
    there = os.environ.get(ADDRESS)
    for name, value in {**ENVIRONMENT, **({} if there else OWN_ENVIRONMENT)}.items():
        os.environ.setdefault(name, value)
    # Ray's handlers exit with another status, and would remain after Ray's shutdown.
    with restored_handlers():
        if there:
            # The environment is passed to processes on other machines too.
            ray.init(runtime_env={"env_vars": ENVIRONMENT}, **QUIET)
        else:
            _start(max(processors, len(os.sched_getaffinity(0))) + 1)
    try:
        yield
    finally:
        ray.shutdown()


def _start(num_cpus: int) -> None:
    """Start a local cluster with several tries.

    Ray limits a start to 30 seconds by constants, and a longer wait does not help. Starts that hung
    were children that gRPC had stopped in the fork (`training/__init__.py`): 4 of 28 with busy
    channels, and 0 of 28 without gRPC's fork support.
    """
    import ray

    for tries_left in reversed(range(START_TRIES)):
        try:
            # "local", because any `ray start` on this machine leaves an address file for others.
            ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **QUIET)
        except Exception as error:  # Ray raises no specific class
            ray.shutdown()
            if not tries_left or START_TOO_SLOW not in str(error).casefold():
                raise
        else:
            return
