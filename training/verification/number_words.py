"""Conversion of English number words ("minus three", "two thirds") to digits.

Examples: "twenty-one", "three point five". Surrounding words distinguish a number from a pronoun
("that one", "one of them").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_UNITS = "one two three four five six seven eight nine".split()
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_PARTS = {"half": 2, "halve": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6,
          "seventh": 7, "eighth": 8, "ninth": 9, "tenth": 10}  # fmt: skip
_VALUES = {"zero": 0, "a": 1, "an": 1, "dozen": 12}
_VALUES |= {word: value for value, word in enumerate(_UNITS + _TEENS, start=1)}
_VALUES |= {word: 10 * value for value, word in enumerate(_TENS, start=2)}


def _any(words: list[str]) -> str:
    return f"(?:{'|'.join(words)})"


_BELOW_100 = rf"(?:{_any(_TENS)}[\s-]{_any(_UNITS)}|{_any(_TENS + _TEENS + _UNITS)})"
_BELOW_1000 = rf"(?:(?:{_BELOW_100}|an?)[\s-]hundred(?:\s(?:and\s)?{_BELOW_100})?|{_BELOW_100})"
# The bounds limit the cost of adversarial text to its length.
_WHOLE = (
    rf"(?:(?:{_BELOW_1000}|an?)[\s-]{_any(list(_SCALES))}"
    rf"(?:,?\s{_BELOW_1000}[\s-]{_any(list(_SCALES))}){{0,2}}(?:,?\s(?:and\s)?{_BELOW_1000})?"
    rf"|{_BELOW_1000}|zero)"
)
_PART = _any([part for part in _PARTS if part != "halve"])
_FRACTION = (
    rf"(?:one[\s-]{_PART}|an?[\s-](?:half|third|quarter)(?=\s+of\b|\W*$|\s*[.,;:!?)])"
    rf"|{_BELOW_100}[\s-]{_any(list(_PARTS))}s)"
)
_PHRASE = re.compile(
    # Most words start no number; the first look-ahead rejects them quickly.
    r"\b(?=[mnaoftsez])(?<![\w'’.-])"
    rf"(?=(?:minus|negative|zero|{'|'.join(_TENS + _TEENS + _UNITS)})\b|an?\s)"
    rf"(?:(?P<sign>minus|negative)\s)?(?:"
    rf"(?P<mixed>{_WHOLE})\sand\s(?:an?|one)[\s-](?P<part>half|third|quarter)"
    rf"|(?P<fraction>{_FRACTION})"
    rf"|(?P<point>{_WHOLE})\spoint(?P<digits>(?:\s(?:zero|{_any(_UNITS)})){{1,12}})"
    rf"|(?P<whole>{_WHOLE})|(?P<dozen>(?:a|one)\sdozen))"
    # "one hundred and five hundred" is two numbers; "two-digit" and "one's" are none.
    r"(?P<percent>\sper\s?cent)?(?!\w|-\w|['’]\w"
    rf"|[\s-](?:hundred|dozen|{'|'.join(_SCALES)}|{'|'.join(_PARTS)})s?\b)",
    re.IGNORECASE,
)
_ESTIMATE_BEFORE = re.compile(
    r"\b(?:half|about|around|roughly|nearly|almost|over|under|than)\s+$", re.IGNORECASE
)
_ESTIMATE_AFTER = re.compile(r"\s+or\s+(?:so|more|less)\b", re.IGNORECASE)
_PRONOUN_BEFORE = re.compile(
    r"\b(?:that|this|the|which|each|every|any|no|another|other|some|only|right|correct|wrong|last"
    r"|first|second|next|same|\w{3,}est|of|an?\s\w+|such|my|your|his|her|its|our|their)\s+$",
    re.IGNORECASE,
)
_PRONOUN_AFTER = re.compile(
    r"\s+(?:of|another|can|could|should|must|may|might|would|will|has|by|who|which|that|needs|gets"
    r"|finds|sees|way|day|time|thing|reason|example|option|possibility)\b",
    re.IGNORECASE,
)
_ANSWER_BEFORE = re.compile(
    r"(?:(?:^|[.!?:=]|\n)|\b(?:is|was|be|it's|that's|equals?|equal\sto|makes?|gives?|gets?|got"
    r"|leaves?|becomes?|totals?|yields?|answer|result)"
    r"(?:\s+(?:exactly|just|simply|therefore|thus|then))?)[\s*_]*$",
    re.IGNORECASE,
)
_ENDS = re.compile(r"[*_]*\s*(?:[.!?,;)]|$|\n)")
_OPENS_SENTENCE = re.compile(r"(?:^|[.!?\n])[\s*_]*$")
_BEFORE_CHARACTERS = 40
_DIGITS_BEFORE = re.compile(r"[\d)]\s*$")


@dataclass(frozen=True)
class NumberWords:
    """A number in words from `start` to `end` (exclusive), converted to digits.

    `answers` is True in the position of an answer.
    """

    start: int
    end: int
    digits: str
    answers: bool


def number_words(text: str) -> Iterator[NumberWords]:
    """Yield all numbers in words, in order.

    "one" as a pronoun and estimates ("about a dozen") are excluded.
    """
    past = -1
    for match in _PHRASE.finditer(text):
        before = text[max(0, match.start() - _BEFORE_CHARACTERS) : match.start()]
        start = match.start()
        # "Five minus three": the sign is an operation between two numbers.
        is_operation = match["sign"] and (
            _DIGITS_BEFORE.search(before) or (past >= 0 and not text[past:start].strip())
        )
        digits = _digits(match)
        past = match.end()
        if digits is None:
            continue
        # Estimates ("about a dozen") and the pronoun "one" are no numbers.
        if match["dozen"]:
            if _ESTIMATE_BEFORE.search(before) or _ESTIMATE_AFTER.match(text, past):
                continue
        elif match[0].lower() == "one" and (
            _PRONOUN_BEFORE.search(before) or _PRONOUN_AFTER.match(text, past)
        ):
            continue
        if match["sign"]:
            start, digits = (
                (match.end("sign") + 1, digits) if is_operation else (start, f"-{digits}")
            )
        answers = bool(_ANSWER_BEFORE.search(before)) and not is_operation
        if answers and (digits == "1" or _OPENS_SENTENCE.search(before)):
            # "Two numbers are added" starts a sentence and answers nothing, and neither does "is
            # one option".
            answers = bool(_ENDS.match(text, match.end()))
        yield NumberWords(start, match.end(), digits, answers)


def in_digits(text: str) -> str:
    """Return the text with number words replaced by digits; "four (4)" becomes one number."""
    text = re.sub(r"^(?:minus|negative)\s(?=[\d.])", "-", text, flags=re.IGNORECASE)
    parts, place = [], 0
    for number in number_words(text):
        parts += [text[place : number.start], number.digits]
        place = number.end
    return re.sub(r"^(-?[\d/.]+)\s\(\1\)$", r"\1", "".join([*parts, text[place:]]))


def _digits(match: re.Match[str]) -> str | None:
    """Return the number in digits; None for an invalid order ("two thousand three million")."""
    percent = "%" if match["percent"] else ""
    if match["dozen"]:
        return f"12{percent}"
    if match["fraction"]:
        numerator, _, part = re.sub(r"[\s-]", " ", match["fraction"].lower()).rpartition(" ")
        denominator = _PARTS[part if part in _PARTS else part.removesuffix("s")]
        return f"{_whole(numerator)}/{denominator}{percent}"
    whole = _whole(match["whole"] or match["point"] or match["mixed"])
    if whole is None:
        return None
    if match["mixed"]:
        return f"{whole} 1/{_PARTS[match['part'].lower()]}"
    if match["point"]:
        decimals = "".join(str(_VALUES[word]) for word in match["digits"].lower().split())
        return f"{whole}.{decimals}{percent}"
    return f"{whole}{percent}"


def _whole(words: str) -> int | None:
    """Return the value of a whole number in words; None if its scales do not decrease."""
    total = group = 0
    # Scales must decrease: "two thousand three million" is no number.
    last_scale = 10**12
    for word in re.split(r"[\s,-]+", words.lower()):
        if word == "hundred":
            group *= 100
        elif word in _SCALES:
            if _SCALES[word] >= last_scale:
                return None
            last_scale = _SCALES[word]
            total, group = total + group * last_scale, 0
        elif word != "and":
            group += _VALUES[word]
    return total + group
