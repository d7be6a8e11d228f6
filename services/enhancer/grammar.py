"""Grammar by Harper, as far as it corrects without guessing: one suggestion, from the rules that are sure.

Its spelling and capitals stay off: they take most of its time, and ours know the words around.
"""

from collections.abc import Iterator

import harper

from services.enhancer.edits import Edit, Kind

# Style and taste are not ours to change, and these kinds guess from single words.
KINDS = frozenset(
    {"Agreement", "Grammar", "Miscellaneous", "WordChoice", "Usage", "BoundaryError", "Eggcorn", "Repetition", "Typo"}
)
OFF = (
    "SpellCheck", "SentenceCapitalization", "CapitalizePersonalPronouns", "LongSentences", "FillerWords", "AvoidCurses", "Dashes",
    "EllipsisLength", "UseEllipsisCharacter", "UseTitleCase", "Hedging", "Spaces", "NoFrenchSpaces", "OxfordComma", "QuoteSpacing",
    "ExpandMemoryShorthands", "ExpandTimeShorthands", "CommaFixes", "UnclosedQuotes", "BlacklistWhitelist", "OkToOkay",
)  # fmt: skip


class Grammar:
    """One Harper linter; not for two threads at once."""

    def __init__(self) -> None:
        self._linter = harper.Linter(harper.Dialect.AMERICAN)
        rules = self._linter.get_default_lint_config()
        self._linter.set_lint_config({rule: on and rule not in OFF for rule, on in rules.items()})

    def edits(self, text: str) -> Iterator[Edit]:
        """What Harper would change, where it has exactly one way."""
        for lint in self._linter.lint(text, language="plaintext"):
            if lint.lint_kind not in KINDS or lint.suggestion_count != 1:
                continue
            suggestion = lint.suggestions[0]
            start, end, new = lint.span.start, lint.span.end, suggestion.replacement_text
            if suggestion.kind == harper.SuggestionKind.INSERT_AFTER:
                start = end
            yield Edit(start, end, new, Kind.GRAMMAR)
