"""Two answers compared as mathematics, by math-verify over sympy. Only ever called in a worker
process: it may take for ever.

math-verify's own time limits use signals, which threads cannot have, and do not stop what holds the
interpreter; they are off. It is given one whole answer to read as LaTeX, never text to search: its
search takes any number that it finds, so that "5 ∪ 6" is worth as much as 6. Where a number is
expected, one that is worked out is asked for: "17 + 25" equals 42, and is the question.
"""

from __future__ import annotations

import importlib
import math
import re
from typing import Any

from training.verification.checks import CheckError
from training.verification.verdict import Outcome, Verdict

LONGEST_ANSWER = 300  # characters; the longest answer of MATH's 5,000 test items has 159
_NUMBER = r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
_MIXED = re.compile(r"([-+]?)(\d+)\s+(\d+)\s*/\s*(\d+)")
_SCIENTIFIC = re.compile(r"([-+]?(?:\d+(?:\.\d+)?|\.\d+))[eE]([-+]?\d{1,4})")
# "12 apples", "3 km/h", "5 cm^2"; one letter alone is more likely a variable, but for the commonest
# units.
_WITH_UNIT = re.compile(
    rf"({_NUMBER}\s*\\?%?)\s+(?!pi\b|sqrt\b)(?:[A-Za-z]{{2,}}|[mgshlL])(?:[\s/][A-Za-z]+|\^?[23²³])*"
)
_WRITTEN_OUT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
_WORKED_OUT = re.compile(
    rf"[-+]?\s*(?:\(?{_NUMBER}\)?(?:\s*\\times\s*10\^\{{[-+]?\d+\}})?|10\^\{{[-+]?\d+\}})\s*\\?%?"
)
_FRACTION = re.compile(r"[-+]?\s*(?:(-?\d+)\s*/\s*(\d+)|\\[dt]?frac\{(-?\d+)\}\{(\d+)\})\s*\\?%?")
_PLAIN_TO_LATEX = (
    (re.compile(r"^\s*\\?[$€£]\s*|^\s*[=≈~]\s*"), ""),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"[−–]"), "-"),
    (re.compile(r"×"), r"\\times "),
    (re.compile(r"÷"), "/"),
    (re.compile(r"∞"), r"\\infty "),
    (re.compile(r"≤|<="), r"\\le "),
    (re.compile(r"≥|>="), r"\\ge "),
    (re.compile(r"∪"), r"\\cup "),
    (re.compile(r"°|\^\s*\{?\\circ\}?"), ""),
    (re.compile(r"\\!"), ""),
    (re.compile(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)|√\s*\(([^()]*)\)|√(\d+)"), r"\\sqrt{\1\2\3}"),
    (re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])|π"), r"\\pi "),
    (re.compile(r"\^\s*(-?\d+)"), r"^{\1}"),  # LaTeX's own 10^12 is 10^1 times 2
    (re.compile(r"\^\s*\(([^()]*)\)"), r"^{\1}"),
)


def compare(expected: str, answer: str) -> Verdict:
    """Whether they are the same number, expression, set, interval, equation or matrix.

    Numbers are equal to six decimal places, a percentage equals its number and its fraction, units
    are not looked at.

    Raises:
        CheckError: the expected answer is no mathematics.
    """
    gold = _parsed(expected)
    if gold is None:
        raise CheckError(
            "expected: cannot be read as mathematics", field="expected", reason="MALFORMED"
        )
    try:
        given = _parsed(answer)
    except RecursionError:
        given = None
    if given is None:
        return Verdict(Outcome.UNPARSABLE, "the answer cannot be read as mathematics")
    if is_number(expected) and not is_number(answer):
        return Verdict(Outcome.WRONG, "not worked out to a number")
    try:
        equal = importlib.import_module("math_verify").verify(
            gold, given, timeout_seconds=None, raise_on_error=True
        )
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever sympy raises on two things that it cannot compare
        return Verdict(Outcome.WRONG, f"cannot be compared: {type(error).__name__}")
    return Verdict(Outcome.RIGHT) if equal else Verdict(Outcome.WRONG, "another answer")


def is_mathematics(text: str) -> bool:
    """Whether it can be an expected answer."""
    return _parsed(text) is not None


def is_number(answer: str) -> bool:
    """Whether it ends in a number that needs no more work: 5, x = 5, 3 1/2, 10%, 1e6; 1/2, but not
    2/4.
    """
    latex = in_latex(answer)
    if latex is None:
        return False
    value = latex.rpartition("=")[2].strip()
    if fraction := _FRACTION.fullmatch(value):
        numerator, denominator = (int(part) for part in fraction.groups() if part is not None)
        return denominator > 1 and math.gcd(numerator, denominator) == 1
    return bool(_MIXED.fullmatch(answer.strip()) or _WORKED_OUT.fullmatch(value))


def in_latex(answer: str) -> str | None:
    """Plain writing turned into LaTeX; None for what has no single reading."""
    answer = _WRITTEN_OUT.sub(r"\1", answer).strip()
    if not answer or len(answer) > LONGEST_ANSWER or "$" in answer.lstrip("$"):
        return None
    if mixed := _MIXED.fullmatch(answer):
        sign, whole, part, parts = mixed.groups()
        return f"{sign}({whole}+\\frac{{{part}}}{{{parts}}})"
    if unit := _WITH_UNIT.fullmatch(answer):
        answer = unit[1]
    if scientific := _SCIENTIFIC.fullmatch(answer):
        return f"{scientific[1]} \\times 10^{{{scientific[2]}}}"
    for pattern, replacement in _PLAIN_TO_LATEX:
        answer = pattern.sub(replacement, answer)
    # math-verify adds them up: "5 6" would be 11.
    return None if re.search(r"\d\s+\d", answer) else answer


def _parsed(text: str) -> Any:
    """A sympy object; None for what is none."""
    latex = in_latex(text)
    if latex is None:
        return None
    library = importlib.import_module("math_verify")  # it has no types
    form = [library.LatexExtractionConfig()]
    found = library.parse(f"${latex}$", form, fallback_mode="no_fallback", parsing_timeout=None)
    return found[0] if found else None
