"""Enhancement of the typed parts of a text: words, then sentences, then grammar, in rounds.

Rounds continue until a round changes nothing, so that a second enhancement changes nothing. A part
without such a fixed point after MAX_ROUNDS stays as typed.
"""

import re
import string
from collections.abc import Iterator, Sequence
from enum import StrEnum

from thumbwheel.enhancer.v1 import enhancer_pb2

from services.contracts.wire import edit_message
from services.enhancer.correction.edits import Draft, Edit, EditKind, apply
from services.enhancer.correction.grammar import Grammar, confusion_edits
from services.enhancer.correction.known_words import ABBREVIATIONS
from services.enhancer.correction.language import LanguageDetector
from services.enhancer.correction.protected import ProtectedSpan, is_code, masked, protected_spans
from services.enhancer.correction.sentences import (
    asks,
    capital_edits,
    question_or_statement,
    run_on_edit,
    spacing_edits,
)
from services.enhancer.correction.spelling import Speller, TypedWord
from services.enhancer.correction.typed import LIST_ITEM, typed_parts

MASK = "_"
MAX_ROUNDS = 8
# Shortest word that is corrected in a text that does not look English.
MIN_CORRECTED_LETTERS = 5
WORD = re.compile(r"[A-Za-z0-9]+(?:['’][A-Za-z]+)*")
NO_LETTERS = re.compile(r"[\W\d_]*")
LAST_SENTENCE = re.compile(r"(?:^|(?<=[.!?])\s+|(?<=[.!?][\"')”])\s+)(?P<sentence>\S[^.!?]*)$")
OPEN_END = re.compile(r"[\w)\"”'’]\s*$")
UNMARKED = re.compile(
    r"[.!?][\"'”’)]+\s*$|"
    r"(?<!\S)(?=\S*+$)\S*?(?:https?:|www\.|[/\\@])|```\s*$|~~~\s*$"
)
# Characters between the end of a sentence and the first word of the next.
OPENING_CHARACTERS = string.whitespace + "\u00a0\"'(“"


class SkipReason(StrEnum):
    """Reason for not correcting a text, as in the proto."""

    NONE = ""
    LANGUAGE = "language"
    CODE = "code"
    PASTED = "pasted"


class Enhancer:
    """Corrects prompts deterministically; texts are not stored."""

    def __init__(self, speller: Speller, grammar: Grammar, language: LanguageDetector) -> None:
        self._speller = speller
        self._grammar = grammar
        self._language = language

    def enhance(self, text: str) -> enhancer_pb2.EnhanceResponse:
        """Correct the typed parts of a text, or return the reason for not correcting the text."""
        edits: list[Edit] = []
        skipped = SkipReason.PASTED
        final = set()
        for part in typed_parts(text):
            draft = Draft(text[part.start : part.end])
            reason = self._skip(draft.text)
            if not reason:
                draft = self._correct(draft.text)
            if not part.must_ask:
                skipped = reason
            elif not reason and asks(draft.original, draft.text):
                skipped = SkipReason.NONE
            else:
                draft = Draft(draft.original)
            final.add(draft.text)
            edits += (edit.shift(part.start) for edit in draft.edits())
        corrected = apply(text, edits)
        # Corrections may change the length, and therefore the parts. A second enhancement must
        # find only final parts.
        if not {corrected[part.start : part.end] for part in typed_parts(corrected)} <= final:
            return enhancer_pb2.EnhanceResponse(text=text)
        return enhancer_pb2.EnhanceResponse(
            text=corrected, edits=map(edit_message, edits), skipped=skipped
        )

    def _correct(self, text: str) -> Draft:
        """Return the corrected text, or the text without edits if there is no fixed point."""
        draft = Draft(text)
        for _ in range(MAX_ROUNDS):
            before = draft.text
            draft.revise(self._word_edits(draft.text))
            visible = masked(draft.text, protected_spans(draft.text), MASK)
            draft.revise(confusion_edits(visible))
            draft.revise(_line_edits(draft.text))
            if draft.text != before:
                continue
            # Grammar takes as long as all other steps and therefore runs last, for most texts
            # only once.
            spans = protected_spans(draft.text)
            draft.revise(
                edit
                for edit in self._grammar.edits(draft.text)
                if not any(edit.start < span.end and edit.end > span.start for span in spans)
            )
            if draft.text == before:
                return draft
        return Draft(text)

    def _skip(self, text: str) -> SkipReason:
        spans = _without_abbreviations(text, protected_spans(text))
        if is_code(text, spans):
            return SkipReason.CODE
        words = [word.lower() for word in WORD.findall(masked(text, spans, " "))]
        if self._language.is_english(text, words, self._is_word):
            return SkipReason.NONE
        known = [self._is_word(word) for word in words]
        # A single word or a few short words are not sufficient: "merci" and "hola" are one letter
        # away from English words.
        if len(words) < 2 or (sum(known) < 2 and min(map(len, words)) < MIN_CORRECTED_LETTERS):
            return SkipReason.LANGUAGE
        corrected = [
            word if is_known else self._speller.likely_correction(word)
            for word, is_known in zip(words, known, strict=True)
        ]
        is_misspelled = all(corrected) and self._language.is_misspelled_english(
            text, " ".join(corrected)
        )
        return SkipReason.NONE if is_misspelled else SkipReason.LANGUAGE

    def _is_word(self, word: str) -> bool:
        return word in ABBREVIATIONS or self._speller.knows(word)

    def _word_edits(self, text: str) -> Iterator[Edit]:
        """Yield edits of spelling and abbreviations for each run of words separated by spaces."""
        visible = masked(text, _without_abbreviations(text, protected_spans(text)), MASK)
        run: list[re.Match[str]] = []
        for word in WORD.finditer(visible):
            if run and visible[run[-1].end() : word.start()].strip(" "):
                yield from self._run_edits(visible, run)
                run = []
            run.append(word)
        if run:
            yield from self._run_edits(visible, run)

    def _run_edits(self, text: str, run: Sequence[re.Match[str]]) -> Iterator[Edit]:
        words = [
            TypedWord(
                match[0].replace("’", "'").lower(), _is_fixed(text, match), match[0][0].isupper()
            )
            for match in run
        ]
        for match, typed, meant in zip(run, words, self._speller.correct(words), strict=True):
            if meant.word != typed.word:
                first = meant.word[0].upper() if match[0][0].isupper() else meant.word[0]
                yield Edit(match.start(), match.end(), first + meant.word[1:], meant.kind)


def _is_fixed(text: str, match: re.Match[str]) -> bool:
    """Return True for a name (capital within a sentence), an acronym, or a part of a token."""
    word = match[0]
    around = text[max(0, match.start() - 1) : match.start()] + text[match.end() : match.end() + 1]
    if re.search(r"[\w/\\@#&*+=<>-]", around) or (word.isdigit() and word not in ABBREVIATIONS):
        return True
    if word[1:] != word[1:].lower():
        return True
    # The first word of a text, a line, or a sentence has a capital anyway.
    start = match.start()
    while start and text[start - 1] in OPENING_CHARACTERS and text[start - 1] != "\n":
        start -= 1
    return word[0].isupper() and start > 0 and text[start - 1] not in ".!?\n"


def _without_abbreviations(text: str, spans: Sequence[ProtectedSpan]) -> tuple[ProtectedSpan, ...]:
    """Omit abbreviations with digits, such as "gr8" and "b4", which are words."""
    return tuple(
        span
        for span in spans
        if span.term or text[span.start : span.end].lower() not in ABBREVIATIONS
    )


def _line_edits(text: str) -> Iterator[Edit]:
    """Yield edits of punctuation, capitals and spaces, line by line."""
    visible = masked(text, protected_spans(text), MASK)
    lines = visible.split("\n")
    position = 0
    for number, line in enumerate(lines):
        if not NO_LETTERS.fullmatch(line):
            opens = (
                number == 0
                or not lines[number - 1].strip()
                or lines[number - 1].rstrip().endswith((".", "!", "?", ":"))
            )
            closes = number + 1 == len(lines) or not lines[number + 1].strip()
            for edit in _one_line_edits(line, text[position : position + len(line)], opens, closes):
                yield Edit(edit.start + position, edit.end + position, edit.replacement, edit.kind)
        position += len(line) + 1


def _one_line_edits(line: str, raw: str, opens: bool, closes: bool) -> Iterator[Edit]:
    yield from spacing_edits(line)
    if LIST_ITEM.match(line):
        return
    yield from capital_edits(
        line, from_start=opens and (closes or bool(question_or_statement(line)))
    )
    if not (opens and closes):
        return
    run_on = run_on_edit(line)
    if run_on:
        yield run_on
    elif OPEN_END.search(line) and not UNMARKED.search(raw):
        last = LAST_SENTENCE.search(line)
        words = last["sentence"] if last else ""
        if len(words.split()) > 1 and (mark := question_or_statement(words)):
            end = len(line.rstrip())
            yield Edit(end, end, mark, EditKind.PUNCTUATION)
