"""Symbolic comparison of answers with math-verify and sympy.

Call in a worker process only, since a comparison may run without end. math-verify's own time limits
are off: they use signals, unavailable in threads, and do not stop code that holds the interpreter.
Each answer is parsed as a whole as LaTeX. math-verify's search in text would accept any number, so
that "5 ∪ 6" would count as 6. Where a number is expected, the answer must be evaluated: "17 + 25"
equals 42 but only repeats the question.
"""

from __future__ import annotations

import importlib
import math
import re
from typing import Any

from training.verification.checks import CheckError, Outcome, Verdict

MAX_ANSWER_CHARACTERS = 300  # characters; the longest answer of MATH's 5,000 test items has 159
_NUMBER = r"[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
_MIXED = re.compile(r"([-+]?)(\d+)\s+(\d+)\s*/\s*(\d+)")
_SCIENTIFIC = re.compile(r"([-+]?(?:\d+(?:\.\d+)?|\.\d+))[eE]([-+]?\d{1,4})")
# "12 apples", "3 km/h", "5 cm^2". A single letter is more likely a variable, except common units.
_WITH_UNIT = re.compile(
    rf"({_NUMBER}\s*\\?%?)\s+(?!pi\b|sqrt\b)(?:[A-Za-z]{{2,}}|[mgshlL])"
    r"(?:[\s/][A-Za-z]+|\^?[23²³])*"
)
_TEXT_COMMAND = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")
_EVALUATED = re.compile(
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
    (re.compile(r"\^\s*(-?\d+)"), r"^{\1}"),  # in LaTeX 10^12 is 10^1 times 2
    (re.compile(r"\^\s*\(([^()]*)\)"), r"^{\1}"),
)


def compare(expected: str, answer: str) -> Verdict:
    """Compare two answers as numbers, expressions, sets, intervals, equations or matrices.

    Numbers are equal to six decimal places, a percentage equals its number and its fraction, and
    units are ignored.

    Raises:
        CheckError: the expected answer is not mathematics.
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
    except Exception as error:  # noqa: BLE001 - sympy raises many types on incomparable objects
        return Verdict(Outcome.WRONG, f"cannot be compared: {type(error).__name__}")
    return Verdict(Outcome.RIGHT) if equal else Verdict(Outcome.WRONG, "another answer")


def is_mathematics(text: str) -> bool:
    """Return True if the text can be parsed as an expected answer."""
    return _parsed(text) is not None


def is_number(answer: str) -> bool:
    """Return True for an evaluated number: 5, x = 5, 3 1/2, 10%, 1e6; 1/2, but not 2/4."""
    latex = to_latex(answer)
    if latex is None:
        return False
    value = latex.rpartition("=")[2].strip()
    if fraction := _FRACTION.fullmatch(value):
        numerator, denominator = (int(part) for part in fraction.groups() if part is not None)
        return denominator > 1 and math.gcd(numerator, denominator) == 1
    return bool(_MIXED.fullmatch(answer.strip()) or _EVALUATED.fullmatch(value))


def to_latex(answer: str) -> str | None:
    """Convert plain notation to LaTeX; None for ambiguous text."""
    answer = _TEXT_COMMAND.sub(r"\1", answer).strip()
    if not answer or len(answer) > MAX_ANSWER_CHARACTERS or "$" in answer.lstrip("\\$"):
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
    # math-verify adds juxtaposed numbers: "5 6" would be 11.
    return None if re.search(r"\d\s+\d", answer) else answer


def _parsed(text: str) -> Any:
    """Return a sympy object, or None for unparsable text."""
    latex = to_latex(text)
    if latex is None:
        return None
    library = importlib.import_module("math_verify")  # untyped
    form = [library.LatexExtractionConfig()]
    found = library.parse(f"${latex}$", form, fallback_mode="no_fallback", parsing_timeout=None)
    return found[0] if found else None
