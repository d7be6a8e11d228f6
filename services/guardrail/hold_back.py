"""Hold-back: decides how much of an unfinished answer may be shown.

Text is shown up to the first word that could still become part of a secret. The text is read word
by word from the left, and the decision on a word depends only on the text from that word on.
Therefore the shown text is the same for any division of the answer into chunks. All patterns see
the text with folded characters.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from services.guardrail.detection.normalization import fold_characters
from services.guardrail.detection.spans import PEM, PEM_END, Span

# Scripts without spaces. Every character counts as a word; otherwise a whole Chinese answer would
# be held back.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
NUMBER_GAP = re.compile(r"[^\S\n]{0,2}")
LABEL_GAP = re.compile(r"\s{0,3}")
# A span contains a digit, one of these signs, or 16 characters without a line break. Windows
# without a match need no detector.
SUSPECT = re.compile(r"[0-9@]|[:=]|-----BEGIN|.{16}")
NUMBER = re.compile(r"(?<![0-9().\-/+])[().\-/+]*+[0-9][0-9().\-/+]*$")
NUMBER_CONTINUES = re.compile(r"[0-9(+]")
ACCOUNT = re.compile(r"\W{0,3}[A-Za-z]{2}\d{2}[A-Za-z0-9]*$")
ACCOUNT_CONTINUES = re.compile(r"[A-Za-z0-9]")
LABEL = re.compile(
    r"(?:key|token|secret|credential|passw(?:or)?d|passphrase|pwd|bearer|basic)"
    r"[\w-]{0,12}[\"'`*]*\s{0,2}(?::|=|=>|is)?[\"'`*]*$",
    re.IGNORECASE,
)
ASSIGNMENT = re.compile(r"(?::|=|=>|is)[\"'`*]*$", re.IGNORECASE)
# Longer than any phone number, card number or IBAN with spaces.
LONGEST_NUMBER = 64
# Longer than "-----BEGIN … PRIVATE KEY BLOCK-----" with the longest name of a key type.
LONGEST_HEADER = 96
# The longest key or token without spaces, a JSON Web Token with claims.
LONGEST_WORD = 4_096
# An RSA key of 8,192 bits in PEM has 6,400 characters.
LONGEST_PRIVATE_KEY = 16_384

Detector = Callable[[str], Iterable[Span]]


@dataclass(frozen=True)
class DecidedPrefix:
    """The decided part of a text.

    Args:
        length: number of decided characters.
        spans: spans to replace within the decided part, in order, without overlaps.
        unbounded: the rest can never be decided, because a word or a private key has no end within
            its bound.
    """

    length: int
    spans: tuple[Span, ...]
    unbounded: bool = False


class UnboundedError(Exception):
    """A word or a private key exceeds its bound."""


def decide_prefix(text: str, detect: Detector, *, final: bool) -> DecidedPrefix:
    """Decide the longest prefix of `text` that no further text can change.

    Args:
        text: pending text of the answer.
        detect: detector of spans.
        final: the answer ends with `text`, so that the whole text is decided.
    """
    # Detection works on folded characters; spans are mapped back to the original text.
    folded = fold_characters(text)
    spans: list[Span] = []
    position, unbounded = 0, False
    for word in WORD.finditer(folded.text):
        # The word is part of a span that started earlier.
        if word.start() < position:
            continue
        try:
            decision = _decide_word(folded.text, word.start(), word.end(), detect, final)
        except UnboundedError:
            decision, unbounded = None, True
        if decision is None:
            return DecidedPrefix(folded.origin(word.start()), tuple(spans), unbounded)
        position, found = decision
        # The end maps through the last character: a character that folding removed may follow.
        spans += (
            Span(
                folded.origin(span.start),
                folded.origin(span.end - 1) + 1,
                span.category,
                span.replacement,
            )
            for span in found
        )
    return DecidedPrefix(len(text), tuple(spans))


def _decide_word(
    text: str, start: int, end: int, detect: Detector, final: bool
) -> tuple[int, list[Span]] | None:
    """Decide the word at `start` and all words into which its spans reach.

    Returns the end of the decided text and the spans, or None if more text is needed.
    """
    found: list[Span] = []
    cursor = start
    while cursor < end:
        window_end = _window_end(text, cursor, end, final)
        if window_end is None:
            return None
        window = text[cursor:window_end]
        if not SUSPECT.search(window):
            break
        # A span that starts in a later word is decided with that word, where its own window is
        # seen.
        candidates = [span for span in detect(window) if span.start < end - cursor]
        if not candidates:
            break
        span = min(candidates, key=lambda span: (span.start, -span.end))
        found.append(Span(cursor + span.start, cursor + span.end, span.category, span.replacement))
        # A span may end inside a later word, whose rest is then decided as well.
        cursor += span.end
        end = max(end, _word_end(text, cursor - 1))
    return end, found


def _window_end(text: str, start: int, end: int, final: bool) -> int | None:
    """Return the end of the text on which the decision about the word at `start` depends.

    The window contains the word and the following words that may belong to one span with it. None
    if the end of the window is not known yet.
    """
    # The last word may continue in the next chunk.
    if end == len(text) and not final:
        if end - start > LONGEST_WORD:
            raise UnboundedError
        return None
    word = text[start:end]
    if "-----BEGIN" in word:
        return _private_key_end(text, start, end, final)
    if NUMBER.search(word):
        return _run_end(text, start, end, NUMBER_CONTINUES, final)
    if ACCOUNT.match(word):
        return _run_end(text, start, end, ACCOUNT_CONTINUES, final)
    if LABEL.search(word):
        return _value_end(text, end, final)
    return end


def _run_end(
    text: str, start: int, end: int, continues: re.Pattern[str], final: bool
) -> int | None:
    """Return the end of a number with spaces, such as a card number or an IBAN."""
    while end - start < LONGEST_NUMBER:
        gap_end = _match_end(NUMBER_GAP, text, end)
        if gap_end == len(text) and not final:
            return None
        if not continues.match(text, gap_end):
            return end
        end = _word_end(text, gap_end)
        if end == len(text) and not final:
            return None
    return end


def _value_end(text: str, end: int, final: bool) -> int | None:
    """Return the end of the word after a label, or of the second word if the first is a sign."""
    for _ in range(2):
        next_start = _match_end(LABEL_GAP, text, end)
        next_end = _word_end(text, next_start)
        if next_end == len(text) and not final:
            return None
        if next_end == next_start or not ASSIGNMENT.fullmatch(text, next_start, next_end):
            return next_end
        end = next_end
    return end


def _private_key_end(text: str, start: int, end: int, final: bool) -> int | None:
    header_end = start + text[start:].index("-----BEGIN") + LONGEST_HEADER
    header = PEM.search(text, start, header_end)
    if header is None:
        # Not a private key once the text is longer than any header.
        return end if final or len(text) >= header_end else None
    key_end = PEM_END.search(text, header.end())
    if key_end:
        return _word_end(text, key_end.end() - 1)
    if len(text) - start > LONGEST_PRIVATE_KEY:
        raise UnboundedError
    return len(text) if final else None


def _word_end(text: str, start: int) -> int:
    return _match_end(WORD, text, start)


def _match_end(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return found.end() if found else start
