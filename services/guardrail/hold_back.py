"""Hold-back: decides how much of an unfinished answer may be shown.

Text is shown up to the first word that could still become part of a secret. The text is read word
by word from the left, and the decision on a word depends only on the text from that word on.
Therefore the shown text is the same for any division of the answer into chunks. All patterns see
the text with folded characters.

The following words that may belong to a secret are found in the text as Markdown shows it
(`detection.markdown`). Words themselves are those of the source.
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from secret_detection.finding import (
    PASSWORD_LABEL,
    PEM,
    PEM_END,
    ends_with_known_start,
    has_letter_and_digit,
)
from services.chassis.threads import Checkpoint, no_checkpoint
from services.guardrail.detection.folding import fold_characters
from services.guardrail.detection.markdown import (
    HAS_MARKUP,
    SOFT_BREAK,
    ShownText,
    shown_text,
    without_markup,
)
from services.guardrail.detection.spans import Span

# Scripts without spaces. Every character counts as a word; otherwise a whole Chinese answer would
# be held back.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
NUMBER_GAP = re.compile(r"\n(?!\n)|[^\S\n]{0,3}")
LABEL_GAP = re.compile(r"\s{0,3}")
# A span contains a digit, one of these signs, or 16 characters without a line break. Windows
# without a match need no detector.
SUSPECT = re.compile(r"[0-9@&]|[:=]|-----BEGIN|.{16}")
NUMBER = re.compile(r"(?<![0-9().\-/+])[().\-/+]*+[0-9][0-9().\-/+]*$")
ACCOUNT = re.compile(r"\W{0,3}[A-Za-z]{2}\d{2}[A-Za-z0-9]*$")
LABEL = re.compile(
    rf"(?:key|token|secret|credential|bearer|basic|{PASSWORD_LABEL})"
    r"[\w-]{0,12}[\"'`*]*+\s{0,2}(?::|=|=>|is)?[\"'`*]*$",
    re.IGNORECASE,
)
DIGIT = re.compile("[0-9]")
TOKEN_LINE = re.compile(r"[\w.+/=-]+")
ASSIGNMENT = re.compile(r"(?::|=|=>|is)[\"'`*]*$", re.IGNORECASE)
# Each span costs one more search in the rest of its word, so that a word of 8,000 characters with
# 1,000 spans took 3 s. The rest of a word with more spans is replaced with the last of them.
MAX_WORD_SPANS = 32
# Longer than any phone number, card number or IBAN with spaces.
LONGEST_NUMBER = 64
# Two spaces and a line break end a line that is shown as such.
LONGEST_GAP = 3
# Longer than "-----BEGIN … PRIVATE KEY BLOCK-----" with the longest name of a key type.
LONGEST_HEADER = 96
# The longest key or token without spaces, a JSON Web Token with claims.
LONGEST_WORD = 4_096
# Lines of a broken token, at least as long as the first of "AKIAIOSF ODNN7EXAMPLE". Each line may
# begin a window of its own, so that more or shorter lines would take long.
MAX_TOKEN_LINES, SHORTEST_TOKEN_LINE = 16, 8
# An RSA key of 8,192 bits in PEM has 6,400 characters.
LONGEST_PRIVATE_KEY = 16_384


@dataclass(frozen=True)
class NumberRun:
    """Words that belong to one number with spaces.

    Args:
        words: pattern of further words with their gaps.
        continues: pattern of the first character of a further word.
        max_breaks: line breaks within the number.
    """

    words: re.Pattern[str]
    continues: re.Pattern[str]
    max_breaks: int


def _run(continues: str, max_breaks: int) -> str:
    """Return the pattern of further words with their gaps."""
    word = rf"(?={continues})[^\s{UNSPACED}]++"
    line = rf"(?:[^\S\n]{{0,3}}{word})*+"
    return rf"{line}(?:\n(?!\n){word}{line}){{0,{max_breaks}}}+"


NUMBER_CONTINUES = re.compile("[0-9(+]")
ACCOUNT_CONTINUES = re.compile("[A-Za-z0-9]")
# Line breaks in a card number of four groups, and in an IBAN of nine. With more, each line of a
# list of numbers would begin a window of LONGEST_NUMBER characters.
MAX_NUMBER_BREAKS, MAX_ACCOUNT_BREAKS = 3, 8
NUMBER_WORDS = re.compile(_run(NUMBER_CONTINUES.pattern, MAX_NUMBER_BREAKS))
ACCOUNT_WORDS = re.compile(_run(ACCOUNT_CONTINUES.pattern, MAX_ACCOUNT_BREAKS))
NUMBER_RUN = NumberRun(NUMBER_WORDS, NUMBER_CONTINUES, MAX_NUMBER_BREAKS)
ACCOUNT_RUN = NumberRun(ACCOUNT_WORDS, ACCOUNT_CONTINUES, MAX_ACCOUNT_BREAKS)

# Detector of the spans in a window that start before a position; it may return further spans.
Detector = Callable[[str, int], Iterable[Span]]


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


class _Pending:
    """A folded text, the shown form of its stable part, and whether the answer ends with it."""

    def __init__(self, text: str, stable: str, final: bool) -> None:
        self.text, self.final = text, final
        self._stable = stable

    @cached_property
    def shown(self) -> ShownText:
        """The shown form; most texts are decided without."""
        return shown_text(self._stable)

    def goes_on(self, shown_end: int) -> bool:
        """Return True if more text may follow directly after `shown_end`."""
        return shown_end == len(self.shown.text) and not self.final


def decide_prefix(
    text: str, detect: Detector, *, final: bool, checkpoint: Checkpoint = no_checkpoint
) -> DecidedPrefix:
    """Decide the longest prefix of `text` that no further text can change.

    Args:
        text: pending text of the answer.
        detect: detector of spans.
        final: the answer ends with `text`, so that the whole text is decided.
        checkpoint: called before each word.

    Raises:
        AbandonedError: `checkpoint` raised the error.
    """
    # Detection works on folded characters; spans are mapped back to the original text.
    folded = fold_characters(text)
    words = list(WORD.finditer(folded.text))
    stable = folded.text
    # Unfinished markup would be shown differently with the next chunk: "&#5" and "&#52;".
    if words and not final and words[-1].end() == len(stable) and HAS_MARKUP.search(words[-1][0]):
        stable = stable[: words[-1].start()]
    pending = _Pending(folded.text, stable, final)
    spans: list[Span] = []
    position, unbounded = 0, False
    for word in words:
        # The word is part of a span that started earlier.
        if word.start() < position:
            continue
        checkpoint()
        try:
            decision = _decide_word(pending, word.start(), word.end(), detect)
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
    pending: _Pending, start: int, end: int, detect: Detector
) -> tuple[int, list[Span]] | None:
    """Decide the word at `start` and all words into which its spans reach.

    Returns the end of the decided text and the spans, or None if more text is needed.
    """
    text = pending.text
    found: list[Span] = []
    cursor, spans_of_word = start, 0
    while cursor < end:
        window_end = _window_end(pending, cursor, end)
        if window_end is None:
            return None
        window = text[cursor:window_end]
        if not SUSPECT.search(window):
            break
        # A span that starts in a later word is decided with that word, where its own window is
        # seen.
        before = end - cursor
        candidates = [span for span in detect(window, before) if span.start < before]
        if not candidates:
            break
        span = min(candidates, key=lambda span: (span.start, -span.end))
        found.append(Span(cursor + span.start, cursor + span.end, span.category, span.replacement))
        cursor += span.end
        spans_of_word += 1
        # A span may end inside a later word, whose rest is then decided as well.
        if (last_end := _word_end(text, cursor - 1)) > end:
            end, spans_of_word = last_end, 0
        if spans_of_word == MAX_WORD_SPANS:
            found[-1] = replace(found[-1], end=end)
            break
    return end, found


def _window_end(pending: _Pending, start: int, end: int) -> int | None:
    """Return the end of the text on which the decision about the word at `start` depends.

    The window contains the word and the following words that may belong to one span with it. None
    if the end of the window is not known yet.
    """
    # The last word may continue in the next chunk.
    if end == len(pending.text) and not pending.final:
        if end - start > LONGEST_WORD:
            raise UnboundedError
        return None
    word = without_markup(pending.text[start:end])
    is_key, is_label = "-----BEGIN" in word, LABEL.search(word)
    has_digit = DIGIT.search(word)
    is_number, is_account = has_digit and NUMBER.search(word), has_digit and ACCOUNT.match(word)
    # Most words have no line break after them.
    gap = pending.text[end : end + LONGEST_GAP]
    may_break = "\n" in gap or (len(gap) < LONGEST_GAP and not pending.final)
    is_token = may_break and ends_with_known_start(word)
    if not (is_key or is_label or is_number or is_account or is_token):
        return end
    shown = pending.shown
    shown_start, shown_end = bisect_left(shown.starts, start), bisect_left(shown.starts, end)
    ends: list[int | None] = [shown_end]
    if is_key:
        ends.append(_private_key_end(pending, shown_start, shown_end))
    if is_number:
        ends.append(_run_end(pending, shown_start, shown_end, NUMBER_RUN))
    if is_account:
        ends.append(_run_end(pending, shown_start, shown_end, ACCOUNT_RUN))
    if is_label:
        ends.append(_value_end(pending, shown_end))
    if is_token:
        ends.append(_token_end(pending, shown_start, shown_end))
    longest = 0
    for window_end in ends:
        if window_end is None:
            return None
        longest = max(longest, window_end)
    if longest == shown_end:
        return end
    source_end = _word_end(pending.text, shown.ends[longest - 1] - 1)
    return None if source_end == len(pending.text) and not pending.final else source_end


def _run_end(pending: _Pending, start: int, end: int, run: NumberRun) -> int | None:
    """Return the end of a number with spaces, such as a card number or an IBAN."""
    text, after_word = pending.shown.text, end
    # One match for the words within the bound; a loop over them took ten times as long.
    if words := run.words.match(text, end, max(end, start + LONGEST_NUMBER)):
        end = words.end()
    if end > after_word:
        # The bound may cut the last word.
        end = _word_end(text, end - 1)
        if pending.goes_on(end):
            return None
    breaks = text.count(SOFT_BREAK, after_word, end)
    while end - start < LONGEST_NUMBER:
        gap_end = _match_end(NUMBER_GAP, text, end)
        breaks += text.count(SOFT_BREAK, end, gap_end)
        if breaks > run.max_breaks:
            return end
        if pending.goes_on(gap_end):
            return None
        if not run.continues.match(text, gap_end):
            return end
        end = _word_end(text, gap_end)
        if pending.goes_on(end):
            return None
    return end


def _value_end(pending: _Pending, end: int) -> int | None:
    """Return the end of the word after a label, or of the second word if the first is a sign."""
    text = pending.shown.text
    for _ in range(2):
        next_start = _match_end(LABEL_GAP, text, end)
        next_end = _word_end(text, next_start)
        if pending.goes_on(next_end):
            return None
        if next_end == next_start or not ASSIGNMENT.fullmatch(text, next_start, next_end):
            return next_end
        end = next_end
    return end


def _token_end(pending: _Pending, start: int, end: int) -> int | None:
    """Return the end of a key or token divided by line breaks."""
    text = pending.shown.text
    for _ in range(MAX_TOKEN_LINES):
        if end - start < SHORTEST_TOKEN_LINE:
            return end
        start = end + len(SOFT_BREAK)
        if pending.goes_on(end) or pending.goes_on(start):
            return None
        next_end = _word_end(text, start)
        if pending.goes_on(next_end):
            return None
        line = text[start:next_end]
        if (
            text[end:start] != SOFT_BREAK
            or not TOKEN_LINE.fullmatch(line)
            or not has_letter_and_digit(line)
        ):
            return end
        end = next_end
    return end


def _private_key_end(pending: _Pending, start: int, end: int) -> int | None:
    text = pending.shown.text
    header_end = text.index("-----BEGIN", start) + LONGEST_HEADER
    header = PEM.search(text, start, header_end)
    if header is None:
        # Not a private key once the text is longer than any header.
        return end if pending.final or len(text) >= header_end else None
    key_end = PEM_END.search(text, header.end())
    if key_end:
        return _word_end(text, key_end.end() - 1)
    if len(pending.text) - pending.shown.starts[start] > LONGEST_PRIVATE_KEY:
        raise UnboundedError
    return len(text) if pending.final else None


def _word_end(text: str, start: int) -> int:
    return _match_end(WORD, text, start)


def _match_end(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return found.end() if found else start
