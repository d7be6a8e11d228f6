"""The whole of an enhancement: words, then sentences, then grammar, each on what the one before
left.

Rounds go on until one changes nothing, so enhancing the result again changes nothing more; a text
that never settles stays.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.enhancer.confusions import confusion_edits
from services.enhancer.edits import Draft, Edit, Kind
from services.enhancer.grammar import Grammar
from services.enhancer.known_words import ABBREVIATIONS
from services.enhancer.language import LanguageGuess
from services.enhancer.protected import Stretch, is_code, masked, protected_stretches
from services.enhancer.sentences import capital_edits, question_or_statement, run_on_edit
from services.enhancer.spacing import spacing_edits
from services.enhancer.spelling import Speller, Typed

MASK = "_"
MOST_ROUNDS = 8
# In a text that does not look English.
SHORTEST_MENDED = 5
WORD = re.compile(r"[A-Za-z0-9]+(?:['’][A-Za-z]+)*")
NO_LETTERS = re.compile(r"[\W\d_]*")
LIST_ITEM = re.compile(r"\s*(?:[-*+•>#|]|\d{1,3}[.)]|[a-zA-Z][.)])\s")
LAST_SENTENCE = re.compile(r"(?:^|(?<=[.!?])\s+|(?<=[.!?][\"')”])\s+)(?P<sentence>\S[^.!?]*)$")
OPEN_END = re.compile(r"[\w)\"”'’]\s*$")
UNMARKED = re.compile(r"[.!?][\"'”’)]+\s*$|(?:https?:|www\.)\S*$|[/\\@]\S*$|```\s*$|~~~\s*$")
SENTENCE_OPENS = re.compile(r"(?:^|[.!?\n])[\s\"'(“]*$")


class Skip(StrEnum):
    """Why nothing was tried."""

    NONE = ""
    LANGUAGE = "language"
    CODE = "code"
    TOO_LONG = "too_long"


@dataclass(frozen=True)
class Enhancement:
    """The text after all edits, the edits on the original, or why nothing was tried."""

    text: str
    edits: tuple[Edit, ...] = ()
    skipped: Skip = Skip.NONE


class Enhancer:
    """Corrects prompts. Deterministic; keeps nothing of a text."""

    def __init__(
        self, speller: Speller, grammar: Grammar, language: LanguageGuess, longest_characters: int
    ) -> None:
        self._speller = speller
        self._grammar = grammar
        self._language = language
        self._longest_characters = longest_characters

    def enhance(self, text: str) -> Enhancement:
        """Correct a text, or say why it is left alone."""
        skipped = self._skip(text)
        if skipped:
            return Enhancement(text, skipped=skipped)
        draft = Draft(text)
        for _ in range(MOST_ROUNDS):
            before = draft.text
            self._correct_words(draft)
            draft.revise(_line_edits(draft.text))
            if draft.text == before:
                # Grammar comes last, and once for most texts: it takes as long as all the rest.
                draft.revise(self._grammar_edits(draft.text))
                if draft.text == before:
                    return Enhancement(draft.text, draft.edits())
        return Enhancement(text)

    def _skip(self, text: str) -> Skip:
        if len(text) > self._longest_characters:
            return Skip.TOO_LONG
        stretches = _without_abbreviations(text, protected_stretches(text))
        if is_code(text, stretches):
            return Skip.CODE
        words = [word.lower() for word in WORD.findall(masked(text, stretches, " "))]
        if self._language.is_english(text, words, self._is_word):
            return Skip.NONE
        known = [self._is_word(word) for word in words]
        # A few short words, or one word alone, say too little: "merci" and "hola" are a letter from
        # English words.
        if len(words) < 2 or (sum(known) < 2 and min(map(len, words)) < SHORTEST_MENDED):
            return Skip.LANGUAGE
        mended = [
            word if is_known else self._speller.easily_meant(word)
            for word, is_known in zip(words, known, strict=True)
        ]
        is_misspelled = all(mended) and self._language.is_misspelled_english(text, " ".join(mended))
        return Skip.NONE if is_misspelled else Skip.LANGUAGE

    def _is_word(self, word: str) -> bool:
        return word in ABBREVIATIONS or self._speller.knows(word)

    def _correct_words(self, draft: Draft) -> None:
        draft.revise(self._word_edits(draft.text))
        draft.revise(confusion_edits(masked(draft.text, protected_stretches(draft.text), MASK)))

    def _grammar_edits(self, text: str) -> Iterator[Edit]:
        stretches = protected_stretches(text)
        return (edit for edit in self._grammar.edits(text) if not _touches(edit, stretches))

    def _word_edits(self, text: str) -> Iterator[Edit]:
        """Spelling and abbreviations, stretch by stretch of words with only spaces between them."""
        visible = masked(text, _without_abbreviations(text, protected_stretches(text)), MASK)
        stretch: list[re.Match[str]] = []
        for word in WORD.finditer(visible):
            if stretch and visible[stretch[-1].end() : word.start()].strip(" "):
                yield from self._stretch_edits(visible, stretch)
                stretch = []
            stretch.append(word)
        if stretch:
            yield from self._stretch_edits(visible, stretch)

    def _stretch_edits(self, text: str, stretch: Sequence[re.Match[str]]) -> Iterator[Edit]:
        words = [
            Typed(match[0].replace("’", "'").lower(), _is_fixed(text, match), match[0][0].isupper())
            for match in stretch
        ]
        for match, typed, meant in zip(stretch, words, self._speller.correct(words), strict=True):
            if meant.word != typed.word:
                yield Edit(match.start(), match.end(), _cased(match[0], meant.word), meant.kind)


def _is_fixed(text: str, match: re.Match[str]) -> bool:
    """A name (a capital within a sentence), an acronym, or a part of something bigger."""
    word = match[0]
    around = text[max(0, match.start() - 1) : match.start()] + text[match.end() : match.end() + 1]
    if re.search(r"[\w/\\@#&*+=<>-]", around) or (word.isdigit() and word not in ABBREVIATIONS):
        return True
    if word[1:] != word[1:].lower():
        return True
    return word[0].isupper() and not SENTENCE_OPENS.search(text, 0, match.start())


def _cased(typed: str, meant: str) -> str:
    return meant[0].upper() + meant[1:] if typed[0].isupper() else meant


def _without_abbreviations(text: str, stretches: Sequence[Stretch]) -> tuple[Stretch, ...]:
    """Things with digits are protected, but "gr8" and "b4" are words."""
    return tuple(
        one
        for one in stretches
        if one.term or text[one.start : one.end].lower() not in ABBREVIATIONS
    )


def _touches(edit: Edit, stretches: Sequence[Stretch]) -> bool:
    return any(edit.start < stretch.end and edit.end > stretch.start for stretch in stretches)


def _line_edits(text: str) -> Iterator[Edit]:
    """Marks, capitals and spaces, line by line."""
    visible = masked(text, protected_stretches(text), MASK)
    lines = visible.split("\n")
    place = 0
    for number, line in enumerate(lines):
        if not NO_LETTERS.fullmatch(line):
            opens = (
                number == 0
                or not lines[number - 1].strip()
                or lines[number - 1].rstrip().endswith((".", "!", "?", ":"))
            )
            closes = number + 1 == len(lines) or not lines[number + 1].strip()
            for edit in _one_line_edits(line, text[place : place + len(line)], opens, closes):
                yield Edit(edit.start + place, edit.end + place, edit.replacement, edit.kind)
        place += len(line) + 1


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
    elif mark := _closing_mark(line, raw):
        end = len(line.rstrip())
        yield Edit(end, end, mark, Kind.PUNCTUATION)


def _closing_mark(line: str, raw: str) -> str:
    """The mark that the last sentence of a line lacks."""
    if not OPEN_END.search(line) or UNMARKED.search(raw):
        return ""
    last = LAST_SENTENCE.search(line)
    if not last or len(last["sentence"].split()) < 2:
        return ""
    return question_or_statement(last["sentence"])
