"""Code that a response wrote, judged by what it does. Values are compared here, outside the
sandbox, as plain JSON data.

The code never meets an expected value, so there is nothing in its process to patch, find or
overwrite: whatever it does to that process, only answering right is right.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from training.verification.checks import Calls, CodeCheck
from training.verification.sandbox.runs import Ended, Run
from training.verification.verdict import Outcome, Verdict

LONGEST_CODE = 20_000  # characters; the longest reference solution of MBPP has 1,500
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = (
    1e-9,
    1e-12,
)  # of floats: what another order of summation may change
_FENCED = re.compile(r"```[ \t]*(?:[Pp]ython3?|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)
_ENDINGS = {
    Ended.OUT_OF_TIME: Verdict(Outcome.OUT_OF_TIME, "the code did not end in time"),
    Ended.FLOODED: Verdict(Outcome.WRONG, "the code wrote more than is read"),
    Ended.KILLED: Verdict(Outcome.WRONG, "the code was killed: by a limit, or by itself"),
}


class Runner(Protocol):
    """The sandbox."""

    def run(self, request: dict[str, object]) -> Run:
        """See Sandbox.run."""


def judge_code(check: CodeCheck, response: str, runner: Runner) -> Verdict:
    """Right only if every case is.

    Raises:
        SandboxUnavailableError: the code could not be run; it is no verdict.
    """
    code = written_code(response)
    if code is None:
        return Verdict(Outcome.UNPARSABLE, f"no code, or more than {LONGEST_CODE} characters of it")
    request: dict[str, object] = {"code": code}
    if isinstance(check, Calls):
        request |= {
            "function": check.function,
            "calls": [json.loads(text) for text in check.arguments],
        }
        return _judge(runner.run(request), [json.loads(text) for text in check.expected], _value_is)
    request |= {"inputs": list(check.inputs)}
    return _judge(runner.run(request), list(check.outputs), _printed)


def written_code(response: str) -> str | None:
    """The last fenced block, or the whole response if it has none; None if that is nothing or too
    much.
    """
    blocks = _FENCED.findall(response[-4 * LONGEST_CODE :])
    code = blocks[-1] if blocks else response
    return code if code.strip() and len(code) <= LONGEST_CODE else None


def same(expected: Any, given: Any) -> bool:
    """Equal as JSON: true is not 1, numbers to a tolerance where a float is expected, lists and
    objects all through.
    """
    if isinstance(expected, list):
        pairs = isinstance(given, list) and len(given) == len(expected)
        return pairs and all(same(one, other) for one, other in zip(expected, given, strict=True))
    if isinstance(expected, dict):
        keys = isinstance(given, dict) and given.keys() == expected.keys()
        return keys and all(same(expected[key], given[key]) for key in expected)
    if type(expected) in (int, float) and type(given) in (int, float):
        return expected == given or (type(expected) is float and _close(expected, given))
    return type(expected) is type(given) and bool(expected == given)


def _close(expected: float, given: float) -> bool:
    try:
        return math.isclose(expected, given, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
    except OverflowError:  # an integer beyond all floats
        return False


def _judge(
    run: Run, expected: Sequence[Any], right: Callable[[Any, dict[str, Any]], bool]
) -> Verdict:
    lines = run.output.split(b"\n")
    finished = lines.pop() == b"" and len(lines) == len(expected)
    if run.ended is not Ended.BY_ITSELF:
        return _ENDINGS[run.ended]
    if not finished:
        return Verdict(Outcome.WRONG, f"{len(lines)} answers to {len(expected)} cases")
    for number, (wanted, line) in enumerate(zip(expected, lines, strict=True), start=1):
        answer = _said(line)
        if answer.get("error") == "MemoryError":
            return Verdict(Outcome.OUT_OF_MEMORY, f"case {number} of {len(expected)}")
        if "value" not in answer or not right(wanted, answer):
            return Verdict(Outcome.WRONG, f"case {number} of {len(expected)}")
    return Verdict(Outcome.RIGHT)


def _said(line: bytes) -> dict[str, Any]:
    """Empty where it is no JSON object: the sandbox may write what it likes."""
    try:
        answer = json.loads(line, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _value_is(expected: Any, answer: dict[str, Any]) -> bool:
    return same(expected, answer["value"])


def _printed(expected: str, answer: dict[str, Any]) -> bool:
    """White space at the end of lines, and of all, does not count."""
    output = answer["value"]
    return (
        isinstance(output, str)
        and answer.get("status") == 0
        and _trimmed(output) == _trimmed(expected)
    )


def _trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
