"""The Ray that stages run under: the cluster that this process was started on, or one of its own on
this machine.

Ray is imported where it is used (runner.py says why).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from training.cluster.notice import kept_handlers

START_TRIES, START_TOO_SLOW = 3, "timed out"
# Set by whoever runs this on a cluster that is there: Ray itself, for the programs of its jobs.
ADDRESS = "RAY_ADDRESS"
ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # thousands of log lines otherwise
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # at 2 s, quick reports block for seconds
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",  # at 5 s, a sixth of a pod's usual notice is gone
    # who is given no GPU sees none, and so computes on a processor
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
}
# Of a cluster that is started here.
OWN_ENVIRONMENT = {
    # one more process; nobody takes this machine away with notice
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_AUTH_MODE": "disabled",  # it is of this process alone, on loopback
    "RAY_USAGE_STATS_ENABLED": "0",
}
QUIET = {"log_to_driver": False, "configure_logging": False}


@contextmanager
def ray_cluster(processors: int) -> Iterator[None]:
    """Ray for as long as the block runs: the cluster that RAY_ADDRESS names, or one on this
    machine. Nothing without processors to ask for, or where this process has one already.

    Starting Ray costs tens of seconds on two busy cores: hold this open around several stages.
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
    with (
        kept_handlers()
    ):  # Ray's own would end this process with another status, and be left when Ray is not
        if there:
            ray.init(
                runtime_env={"env_vars": ENVIRONMENT}, **QUIET
            )  # for processes on other machines too
        else:
            _start(max(processors, len(os.sched_getaffinity(0))) + 1)
    try:
        yield
    finally:
        ray.shutdown()


def _start(num_cpus: int) -> None:
    """Ray gives its own start 30 seconds, by constants; it gets more than one try, since a longer
    wait helps nobody. Starts that hung were children that gRPC had stopped in the fork
    (`training/__init__.py`): beside busy channels 4 of 28, and of 28 without that none.
    """
    import ray

    for tries_left in reversed(range(START_TRIES)):
        try:
            # Local: `ray start` of anybody on this machine leaves a note where others find that
            # cluster.
            ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **QUIET)
        except Exception as error:  # Ray raises nothing more special
            ray.shutdown()
            if not tries_left or START_TOO_SLOW not in str(error).casefold():
                raise
        else:
            return
