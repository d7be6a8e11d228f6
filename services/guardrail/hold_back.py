"""Decides how much of an unfinished answer may be shown: up to the first word that could still
become part of a secret.

The text is read word by word from the left, and whether a word is decided depends only on the text
from that word on. So the shown text is the same however the answer was cut into chunks. All
patterns see the text unmasked.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from services.guardrail.disguise import unmask
from services.guardrail.secret_spans import PEM, PEM_END
from services.guardrail.spans import Span

# Scripts without spaces: every character ends a word, or a whole Chinese answer would be held back.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
NUMBER_GAP = re.compile(r"[^\S\n]{0,2}")
LABEL_GAP = re.compile(r"\s{0,3}")
# What can only be part of a span if there is a digit, a sign or great length: all other words are
# decided at their end.
SUSPECT = re.compile(r"[0-9@]|[:=]|-----BEGIN|.{16}")
NUMBER = re.compile(r"[0-9][0-9().\-/+]*$")
NUMBER_GOES_ON = re.compile(r"[0-9(+]")
ACCOUNT = re.compile(r"\W{0,3}[A-Za-z]{2}\d{2}[A-Za-z0-9]*$")
ACCOUNT_GOES_ON = re.compile(r"[A-Za-z0-9]")
LABEL = re.compile(
    r"(?:key|token|secret|credential|passw(?:or)?d|passphrase|pwd|bearer|basic)[\w-]*[\"'`*]*\s{0,2}(?::|=|=>|is)?[\"'`*]*$",
    re.IGNORECASE,
)
SIGN = re.compile(r"(?::|=|=>|is)[\"'`*]*$", re.IGNORECASE)
# A phone number, card or IBAN with its spaces is shorter.
LONGEST_NUMBER = 64
# "-----BEGIN … PRIVATE KEY BLOCK-----" with the longest kind of key.
LONGEST_HEADER = 96
# The longest key or token that is one word (a JSON web token with claims).
LONGEST_WORD = 4_096
# An RSA key of 8,192 bits in PEM has 6,400 characters.
LONGEST_PRIVATE_KEY = 16_384

Detector = Callable[[str], Iterable[Span]]


@dataclass(frozen=True)
class Shown:
    """The first `length` characters are decided; `spans` of them are to be replaced, in order, not
    overlapping.

    `overlong` says that what follows can never be decided: a word or a private key without end.
    """

    length: int
    spans: tuple[Span, ...]
    overlong: bool = False


class OverlongError(Exception):
    """A word or key goes on beyond every bound."""


def decide(text: str, detect: Detector, *, final: bool) -> Shown:
    """How much of `text` is decided, and what of it must be replaced."""
    unmasked = unmask(text)
    folded, spans, place = unmasked.text, list[Span](), 0
    overlong = False
    for word in WORD.finditer(folded):
        if word.start() < place:
            continue
        try:
            reading = _read(folded, word.start(), word.end(), detect, final)
        except OverlongError:
            reading, overlong = None, True
        if reading is None:
            return Shown(unmasked.origin(word.start()), tuple(spans), overlong)
        place, found = reading
        spans += (
            Span(
                unmasked.origin(one.start),
                unmasked.origin(one.end - 1) + 1,
                one.category,
                one.replacement,
            )
            for one in found
        )
    return Shown(len(text), tuple(spans))


def _read(
    text: str, start: int, end: int, detect: Detector, final: bool
) -> tuple[int, list[Span]] | None:
    """Decide the word at `start`, and the words into which its spans reach. None: more text is
    needed.
    """
    found: list[Span] = []
    cursor = start
    while cursor < end:
        closed = _window_end(text, cursor, end, final)
        if closed is None:
            return None
        span = _first_span(text[cursor:closed], end - cursor, detect)
        if span is None:
            break
        found.append(Span(cursor + span.start, cursor + span.end, span.category, span.replacement))
        cursor += span.end
        end = max(end, _word_end(text, cursor - 1))
    return end, found


def _first_span(window: str, word_length: int, detect: Detector) -> Span | None:
    if not SUSPECT.search(window):
        return None
    found = [span for span in detect(window) if span.start < word_length]
    return min(found, key=lambda span: (span.start, -span.end), default=None)


def _window_end(text: str, start: int, end: int, final: bool) -> int | None:
    """Where the stretch ends that decides the word: the word, and the words that may belong to it.
    None: not seen yet.
    """
    if end == len(text) and not final:
        if end - start > LONGEST_WORD:
            raise OverlongError
        return None
    word = text[start:end]
    if "-----BEGIN" in word:
        return _private_key_end(text, start, end, final)
    if NUMBER.search(word):
        return _run_end(text, start, end, NUMBER_GOES_ON, final)
    if ACCOUNT.match(word):
        return _run_end(text, start, end, ACCOUNT_GOES_ON, final)
    if LABEL.search(word):
        return _value_end(text, end, final)
    return end


def _run_end(text: str, start: int, end: int, goes_on: re.Pattern[str], final: bool) -> int | None:
    while end - start < LONGEST_NUMBER:
        gap_end = _match_end(NUMBER_GAP, text, end)
        if gap_end == len(text) and not final:
            return None
        if not goes_on.match(text, gap_end):
            return end
        end = _word_end(text, gap_end)
        if end == len(text) and not final:
            return None
    return end


def _value_end(text: str, end: int, final: bool) -> int | None:
    """The word after a label, and the one after that if the first is only a sign."""
    for _ in range(2):
        next_start = _match_end(LABEL_GAP, text, end)
        next_end = _word_end(text, next_start)
        if next_end == len(text) and not final:
            return None
        if next_end == next_start or not SIGN.fullmatch(text, next_start, next_end):
            return next_end
        end = next_end
    return end


def _private_key_end(text: str, start: int, end: int, final: bool) -> int | None:
    header_end = start + text[start:].index("-----BEGIN") + LONGEST_HEADER
    header = PEM.search(text, start, header_end)
    if header is None:
        return end if final or len(text) >= header_end else None
    key_end = PEM_END.search(text, header.end())
    if key_end:
        return _word_end(text, key_end.end() - 1)
    if len(text) - start > LONGEST_PRIVATE_KEY:
        raise OverlongError
    return len(text) if final else None


def _word_end(text: str, start: int) -> int:
    return _match_end(WORD, text, start)


def _match_end(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return found.end() if found else start
