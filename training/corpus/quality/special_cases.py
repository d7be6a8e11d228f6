"""Blank pipelines of spaCy, and the special cases of their tokenizers that join several tokens."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from training.corpus.document import CorpusError

if TYPE_CHECKING:
    from spacy.language import Language


class SpecialCases:
    """Special cases of a tokenizer that its matcher finds among the tokens of a text.

    The matcher compares tokens and ignores spaces between them. A match over a space changes no
    token, but it suppresses shorter matches that it overlaps.

    Attributes:
        beginnings: tokens that some special case contains before its last token.
        continuations: tokens that some special case contains after its first token.
    """

    def __init__(self, pipeline: Language) -> None:
        from spacy.tokenizer import Tokenizer as SpacyTokenizer

        full: Any = pipeline.tokenizer
        affixes = (
            _Switch(full.prefix_search, absent=None),
            _Switch(full.suffix_search, absent=None),
            _Switch(full.infix_finditer, absent=()),
        )
        # A special case enters the matcher if it has an affix. None has while the tokenizer is
        # built, so that this one gives the tokens before the matcher.
        self._unmatched = SpacyTokenizer(
            pipeline.vocab, full.rules, *affixes, full.token_match, full.url_match
        )
        for affix in affixes:
            affix.on = True
        self._unmatched.max_cache_size = 0
        # Without rules, the tokenizer gives the tokens that the matcher looks for.
        plain = SpacyTokenizer(pipeline.vocab, {}, *affixes, full.token_match, full.url_match)
        patterns = {case: [token.text for token in plain(case)] for case in full.rules}
        self._spaced = tuple(case for case in full.rules if len(case.split()) > 1)
        several = {case: tokens for case, tokens in patterns.items() if len(tokens) > 1}
        self._matched = frozenset(several)
        self._longest = max(map(len, several), default=0)
        self.beginnings = frozenset(word for tokens in several.values() for word in tokens[:-1])
        self.continuations = frozenset(word for tokens in several.values() for word in tokens[1:])

    def occur_over_spaces(self, text: str) -> bool:
        """Return true if the text contains a special case with a space, as "EE. UU."."""
        return any(case in text for case in self._spaced)

    def changed(self, chunk: str, words: list[str]) -> bool:
        """Return true if the matcher changed the words of a chunk."""
        return self._occur_in(words) and words != [token.text for token in self._unmatched(chunk)]

    def _occur_in(self, words: list[str]) -> bool:
        """Return true if neighbouring words, joined, are a special case of several tokens."""
        for first in range(len(words) if len(words) > 1 else 0):
            joined = ""
            for word in words[first:]:
                joined += word
                if len(joined) > self._longest:
                    break
                if joined in self._matched:
                    return True
        return False


class _Switch:
    """Affix function of a tokenizer that finds nothing until it is switched on."""

    def __init__(self, function: Callable[[str], Any] | None, absent: tuple[()] | None) -> None:
        self._function = function
        self._absent = absent
        self.on = False

    def __call__(self, text: str) -> Any:
        return self._function(text) if self.on and self._function is not None else self._absent


@contextmanager
def without_torch() -> Iterator[None]:
    """Keep an import from loading torch, unless it is loaded already.

    spaCy's library thinc imports torch if it is installed: 490 MB in each worker for nothing.
    """
    absent = "torch" not in sys.modules
    if absent:
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes the import fail
    try:
        yield
    finally:
        if absent:
            del sys.modules["torch"]


def blank_pipeline(language: str) -> Language:
    """Return spaCy's blank pipeline of a language with the sentencizer.

    Raises:
        CorpusError: spaCy needs a further package for the language, or does not know it.
    """
    with without_torch():
        import spacy
        from spacy.tokenizer import Tokenizer as SpacyTokenizer
    try:
        pipeline = spacy.blank(language)
    except ImportError as error:
        raise CorpusError(
            f"spaCy has no tokenizer for {language!r} without further packages", field="language"
        ) from error
    if type(pipeline.tokenizer) is not SpacyTokenizer:
        raise CorpusError(
            f"the tokenizer of {language!r} does not work chunk by chunk", field="language"
        )
    pipeline.add_pipe("sentencizer")
    tokenizer: Any = pipeline.tokenizer
    # The table replaces spaCy's own cache.
    tokenizer.max_cache_size = 0
    return pipeline
