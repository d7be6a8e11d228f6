"""Quality rules by language.

English has the rules of FineWeb. The languages of fineweb2.json have those of FineWeb-2, each with
its own limits and stop words. Other languages are judged by lines and paragraphs only, because the
rules for words need a tokenizer and limits with a source.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from training.corpus.document import CorpusError, Document, Verdict
from training.corpus.quality import c4, fineweb, gopher
from training.corpus.quality.words import TABLE_BYTES, Tokenizer

Step = Callable[[Document], Document | Verdict]

# From the configurations of FineWeb-2 (Apache-2.0, commit d0defb24 of huggingface/fineweb-2) for
# languages that spaCy tokenizes without further packages. Penedo et al., "FineWeb2", arXiv
# 2506.20920, derives limits and stop words from Wikipedia and other corpora of each language.
FINEWEB2 = Path(__file__).with_name("fineweb2.json")

MIN_TABLE_BYTES = 2**20
REPETITION, QUALITY, C4, FINEWEB = "gopher repetition", "gopher quality", "c4", "fineweb"
GROUPS = (REPETITION, QUALITY, C4, FINEWEB)


@dataclass(frozen=True)
class QualityConfig:
    """Configuration of the quality rules.

    Attributes:
        groups: groups of rules to apply, of `GROUPS`.
        punctuated_lines: remove lines without final punctuation, as C4 did and FineWeb did not.
        table_bytes: bound of the tables of words of all languages together.
    """

    groups: tuple[str, ...] = GROUPS
    punctuated_lines: bool = False
    table_bytes: int = TABLE_BYTES

    def __post_init__(self) -> None:
        if unknown := set(self.groups).difference(GROUPS):
            raise CorpusError(
                f"{sorted(unknown)} are unknown; allowed are {', '.join(GROUPS)}",
                field="quality.groups",
            )
        if self.table_bytes < MIN_TABLE_BYTES:
            raise CorpusError(
                f"{self.table_bytes} is below {MIN_TABLE_BYTES}", field="quality.table_bytes"
            )


def quality_steps(config: QualityConfig) -> list[Step]:
    """Return the quality rules as one step that selects rules by the document's language."""
    return [QualityRules(config)] if config.groups else []


class QualityRules:
    """The rules of all languages. A document without a language is judged as English."""

    def __init__(self, config: QualityConfig) -> None:
        self._config = config
        self._tokenizers: dict[str, Tokenizer] = {}
        self._rules: dict[str, list[Step]] = {}

    def __call__(self, document: Document) -> Document | Verdict:
        language = document.language or "en"
        if language not in self._rules:
            self._rules[language] = self._rules_of(language)
        if sum(one.bytes for one in self._tokenizers.values()) > self._config.table_bytes:
            for one in self._tokenizers.values():
                one.clear()
        for rule in self._rules[language]:
            result = rule(document)
            if isinstance(result, Verdict):
                return result
            document = result
        return document

    def _rules_of(self, language: str) -> list[Step]:
        groups = set(self._config.groups)
        if language == "en":
            english = self._tokenizers["en"] = Tokenizer("en")
            rules: dict[str, Step] = {
                REPETITION: gopher.Repetition(english),
                QUALITY: gopher.Quality(english),
                C4: c4.Lines(english, self._config.punctuated_lines),
                FINEWEB: fineweb.Lines(english),
            }
        elif language in fineweb2_limits():
            tokenizer = self._tokenizers[language] = Tokenizer(language)
            rules = _fineweb2_rules(tokenizer, fineweb2_limits()[language])
        else:
            rules = {REPETITION: gopher.Repetition(None), FINEWEB: fineweb.Lines(None)}
        chosen = [rule for name, rule in rules.items() if name in groups]
        if QUALITY in groups & rules.keys():
            return [gopher.LongTexts(self._tokenizers[language]), *chosen]
        return chosen


@cache
def fineweb2_limits() -> dict[str, dict[str, Any]]:
    """Return the limits of FineWeb-2 by language (ISO 639-1)."""
    limits: dict[str, dict[str, Any]] = json.loads(FINEWEB2.read_text())
    return limits


def _fineweb2_rules(tokenizer: Tokenizer, limits: dict[str, Any]) -> dict[str, Step]:
    """Return the rules of one language in FineWeb-2's order, which has no rules of C4.

    Rules that FineWeb-2 switched off or set for all languages are in its pipeline's file.
    """
    shortest, longest = limits["word_length"]
    return {
        REPETITION: gopher.Repetition(
            tokenizer,
            gopher.RepetitionLimits(
                lines=limits["duplicate_lines"],
                line_characters=None,
                paragraphs=None,
                paragraph_characters=None,
                top_ngrams=tuple((n, share) for n, share in limits["top_ngrams"]),
                ngrams=tuple((n, share) for n, share in limits["duplicate_ngrams"]),
            ),
        ),
        FINEWEB: fineweb.Lines(
            tokenizer,
            fineweb.LineLimits(
                punctuated=limits["punctuated_lines"],
                short=None,
                duplicate_characters=0.1,
                line_breaks=limits["line_breaks"],
            ),
        ),
        QUALITY: gopher.Quality(
            tokenizer,
            gopher.QualityLimits(
                word_length=(shortest, longest),
                alphabetic_words=limits["alphabetic_words"],
                stop_words=frozenset(limits["stop_words"]),
            ),
        ),
    }
