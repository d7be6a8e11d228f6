"""Verification of code by its behaviour; values are compared outside the sandbox, as JSON data.

The code's process never contains an expected value, so patching or searching the process gains
nothing. Only correct answers are accepted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from training.verification.checks import Calls, CodeCheck, Outcome, Verdict
from training.verification.sandbox.runs import EndReason, Run

MAX_CODE_CHARACTERS = 20_000  # characters; the longest reference solution of MBPP has 1,500
# Tolerances for floats, for a different order of summation.
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-9, 1e-12
_FENCED = re.compile(r"```[ \t]*(?:[Pp]ython3?|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)
_ENDINGS = {
    EndReason.OUT_OF_TIME: Verdict(Outcome.OUT_OF_TIME, "the code exceeded its time limit"),
    EndReason.FLOODED: Verdict(Outcome.WRONG, "the code exceeded its output limit"),
    EndReason.KILLED: Verdict(Outcome.WRONG, "the code was killed by a limit or by itself"),
}


class Runner(Protocol):
    """Interface of the sandbox for judging code."""

    def run(self, request: dict[str, object]) -> Run:
        """Run the request like `Sandbox.run`."""


def judge_code(check: CodeCheck, response: str, runner: Runner) -> Verdict:
    """Judge a response with code; right only if every case is.

    Raises:
        SandboxUnavailableError: the code could not be run; no verdict exists.
    """
    code = extract_code(response)
    if code is None:
        return Verdict(
            Outcome.UNPARSABLE, f"no code, or more than {MAX_CODE_CHARACTERS} characters of it"
        )
    return run_checks(check, code, runner)


def run_checks(check: CodeCheck, code: str, runner: Runner) -> Verdict:
    """Judge code without the text around it; right only if every case is.

    Raises:
        SandboxUnavailableError: the code could not be run; no verdict exists.
    """
    request: dict[str, object] = {"code": code}
    if isinstance(check, Calls):
        request |= {
            "function": check.function,
            "calls": [json.loads(text) for text in check.arguments],
        }
        return _judge(
            runner.run(request),
            [json.loads(text) for text in check.expected],
            lambda expected, answer: equal_as_json(expected, answer["value"]),
        )
    request |= {"inputs": list(check.inputs)}
    return _judge(runner.run(request), list(check.outputs), _output_matches)


def extract_code(response: str) -> str | None:
    """Return the last fenced block, or the whole response without blocks.

    Empty code and code above the size limit give None.
    """
    blocks = _FENCED.findall(response[-4 * MAX_CODE_CHARACTERS :])
    code = blocks[-1] if blocks else response
    return code if code.strip() and len(code) <= MAX_CODE_CHARACTERS else None


def equal_as_json(expected: Any, given: Any) -> bool:
    """Compare as JSON: true is not 1, and floats are compared with a tolerance, at all depths."""
    if isinstance(expected, list):
        pairs = isinstance(given, list) and len(given) == len(expected)
        return pairs and all(
            equal_as_json(one, other) for one, other in zip(expected, given, strict=True)
        )
    if isinstance(expected, dict):
        keys = isinstance(given, dict) and given.keys() == expected.keys()
        return keys and all(equal_as_json(expected[key], given[key]) for key in expected)
    if type(expected) in (int, float) and type(given) in (int, float):
        return expected == given or (type(expected) is float and _close(expected, given))
    return type(expected) is type(given) and bool(expected == given)


def _close(expected: float, given: float) -> bool:
    try:
        return math.isclose(expected, given, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
    except OverflowError:  # an integer beyond the range of floats
        return False


def _judge(
    run: Run, expected: Sequence[Any], matches: Callable[[Any, dict[str, Any]], bool]
) -> Verdict:
    lines = run.output.split(b"\n")
    finished = lines.pop() == b"" and len(lines) == len(expected)
    if run.ended is not EndReason.EXITED:
        return _ENDINGS[run.ended]
    if not finished:
        return Verdict(Outcome.WRONG, f"{len(lines)} answers to {len(expected)} cases")
    for number, (wanted, line) in enumerate(zip(expected, lines, strict=True), start=1):
        try:
            answer = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            answer = None
        # Lines are untrusted: anything but a JSON object counts as no answer.
        answer = answer if isinstance(answer, dict) else {}
        if answer.get("error") == "MemoryError":
            return Verdict(Outcome.OUT_OF_MEMORY, f"case {number} of {len(expected)}")
        if "value" not in answer or not matches(wanted, answer):
            return Verdict(Outcome.WRONG, f"case {number} of {len(expected)}")
    return Verdict(Outcome.RIGHT)


def _refuse_constant(constant: str) -> None:
    raise ValueError(constant)


def _output_matches(expected: str, answer: dict[str, Any]) -> bool:
    """Compare printed output, ignoring white space at line ends and at the end."""
    output = answer["value"]
    return (
        isinstance(output, str)
        and answer.get("status") == 0
        and _trimmed(output) == _trimmed(expected)
    )


def _trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]
