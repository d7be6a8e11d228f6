"""Worker process: `python -m training.verification.worker SECONDS BYTES`.

Judges texts from stdin, one per line, within kernel limits. Exceeding the processor time ends the
process by a signal. Exceeding the memory raises MemoryError, after which the process exits.
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

from training.verification.checks import Check, Gym, Mathematics, Outcome, Verdict, from_mapping
from training.verification.free_text import judge_text
from training.verification.symbols import is_mathematics
from training.verification.tasks.gym import scoring_generator

# sympy needs a few hundred levels for an answer of maximum length.
RECURSION_LIMIT = 3_000


def main(processor_seconds: int, growth_bytes: int) -> None:
    """Answer requests until stdin ends or memory is exhausted."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keep prints of libraries out of the verdicts
    logging.disable()
    sys.setrecursionlimit(RECURSION_LIMIT)
    for line in sys.stdin:
        request = json.loads(line)
        if "load" in request:
            lift_limits()
            load(from_mapping(request["load"]))
            limit_memory(growth_bytes)
            verdict = Verdict(Outcome.RIGHT, "ready")
        else:
            limit_processor(processor_seconds)
            verdict = judge_request(request)
        answers.write(json.dumps({"outcome": verdict.outcome, "reason": verdict.reason}) + "\n")
        answers.flush()
        if verdict.outcome is Outcome.OUT_OF_MEMORY:
            return


def load(check: Check) -> None:
    """Import the libraries and word lists of a check ahead of time.

    Loading counts against no answer.
    """
    if isinstance(check, Mathematics):
        is_mathematics("x^2 + 1")
    elif isinstance(check, Gym):
        scoring_generator(check.generator)


def judge_request(request: dict[str, Any]) -> Verdict:
    """Judge one request; exhausted recursion or memory becomes a verdict."""
    try:
        return judge_text(from_mapping(request["check"]), request["response"])  # type: ignore[arg-type]
    except RecursionError:
        return Verdict(Outcome.UNPARSABLE, "nested too deeply")
    except MemoryError:
        return Verdict(Outcome.OUT_OF_MEMORY, "judging it took too much memory")


def lift_limits() -> None:
    """Remove the limits of the previous answer before loading."""
    for limit in (resource.RLIMIT_CPU, resource.RLIMIT_AS):
        resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def limit_memory(growth_bytes: int) -> None:
    """Limit memory to the current size plus `growth_bytes`."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit_bytes = pages * resource.getpagesize() + growth_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, resource.RLIM_INFINITY))


def limit_processor(seconds: int) -> None:
    """Limit processor time to the current usage plus `seconds`."""
    used = time.process_time()
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used) + seconds, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
