"""`python -m training.verification.worker SECONDS BYTES`: judges the texts that come in, a line
each, within limits that the kernel keeps.

Processor time ends the process by a signal; memory beyond the limit is an error that Python sees,
after which it ends itself.
"""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from training.verification.checks import Check, Gym, Mathematics, from_mapping
from training.verification.reading import judge_text
from training.verification.symbols import is_mathematics
from training.verification.tasks.gym import opened
from training.verification.verdict import Outcome, Verdict

DEEPEST_CALLS = (
    3_000  # sympy's own recursion on an answer of the longest length needs some hundreds
)


def main(processor_seconds: int, growth_bytes: int) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no verdict
    logging.disable()
    sys.setrecursionlimit(DEEPEST_CALLS)
    for line in sys.stdin:
        request = json.loads(line)
        if "load" in request:
            lift_limits()
            load(from_mapping(request["load"]))
            limit_memory(growth_bytes)
            verdict = Verdict(Outcome.RIGHT, "ready")
        else:
            limit_processor(processor_seconds)
            verdict = judged(request)
        answers.write(json.dumps({"outcome": verdict.outcome, "reason": verdict.reason}) + "\n")
        answers.flush()
        if verdict.outcome is Outcome.OUT_OF_MEMORY:
            return


def load(check: Check) -> None:
    """Import what it needs, word lists of a generator included: it may take long, and counts
    against no answer.
    """
    if isinstance(check, Mathematics):
        is_mathematics("x^2 + 1")
    elif isinstance(check, Gym):
        opened(check.generator)


def judged(request: dict[str, Any]) -> Verdict:
    try:
        return judge_text(from_mapping(request["check"]), request["response"])  # type: ignore[arg-type]
    except RecursionError:
        return Verdict(Outcome.UNPARSABLE, "nested too deeply")
    except MemoryError:
        return Verdict(Outcome.OUT_OF_MEMORY, "judging it took too much memory")


def lift_limits() -> None:
    """Those of the answer before must not end what is loaded for the next."""
    for limit in (resource.RLIMIT_CPU, resource.RLIMIT_AS):
        resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def limit_memory(growth_bytes: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + growth_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def limit_processor(seconds: int) -> None:
    """So much more than it has used up to now."""
    used = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used) + seconds, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
